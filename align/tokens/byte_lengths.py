"""Character spans of tokens without asking for offsets.

Copying offsets out of a tokenizer costs more than aligning with them. Where every
token stands for a fixed number of bytes, as in byte-level vocabularies and in
SentencePiece ones that fall back to bytes, the cumulative sum of these lengths says
where each token lies.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from align.tokens.offsets import MARKER
from align.tokens.pieces import byte_of_piece
from align.tokens.placed import Ints, Placed, cumulative, ids_of

Bools = NDArray[np.bool_]

Prefix = Literal["none", "first", "always"]
"""Whether a blank that is not in the text is put before it: never, at its start, or
also after each special token in it."""

_KEEPING = ("Split", "Digits", "Punctuation", "UnicodeScripts")
"""Pre-tokenizers that cut text and neither add to it nor, by themselves, drop any."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ByteLengths:
    """How many bytes of text each id of one vocabulary stands for."""

    lengths: Ints
    """(V,) int64, bytes of each id; -1 where an id is unused."""
    added: Bools
    """(V,) bool, True on ids that were added to the vocabulary, special or not."""
    normalizes: bool
    """True where the tokenizer first brings text to Unicode's NFC."""
    prefix: Prefix
    """Where the tokenizer reads a blank that the text does not have."""
    spares: bool = False
    """True where it reads none before text that begins with a blank of its own."""

    @classmethod
    def of(cls, tokenizer: Any) -> ByteLengths | None:
        """Read the table out of a tokenizer; build it once and pass it on.

        Args:
            tokenizer: a Hugging Face tokenizer.

        Returns:
            The table, or None where token lengths do not follow from ids alone:
            a slow tokenizer, WordPiece, a normaliser other than NFC.

        Source:
            The printable byte alphabet of GPT-2 (Radford et al., 2019), and byte
            fallback of SentencePiece (Kudo and Richardson, 2018).
        """
        if not getattr(tokenizer, "is_fast", False):
            return None
        backend = tokenizer.backend_tokenizer
        normalizer, splitter = _steps(backend.normalizer), _steps(backend.pre_tokenizer)
        plain = marking = _byte_level(normalizer, splitter)
        if not plain and getattr(backend.model, "byte_fallback", False):
            marking = _marked(normalizer, splitter)
        if not marking:
            return None
        vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=False)
        if not plain and any(f"<0x{b:02X}>" not in vocabulary for b in range(256)):
            return None
        added_tokens = backend.get_added_tokens_decoder()
        size = max([*vocabulary.values(), *added_tokens], default=-1) + 1
        lengths = np.full(size, -1, dtype=np.int64)
        sizes = map(len if plain else _marked_size, vocabulary)
        lengths[list(vocabulary.values())] = list(sizes)
        added = np.zeros(size, dtype=np.bool_)
        for id_, token in added_tokens.items():
            lengths[id_] = len(token.content.encode())
            added[id_] = True
        prefix, spares = marking
        return cls(
            lengths=lengths,
            added=added,
            normalizes=bool(plain and normalizer),
            prefix=prefix,
            spares=spares,
        )

    def encode(self, tokenizer: Any, texts: list[str]) -> tuple[Placed, Bools]:
        """Tokenise without offsets and compute the spans.

        Args:
            tokenizer: the tokenizer this table was read from, neither cutting nor
                padding.
            texts: B texts.

        Returns:
            The tokens, and (B,) bool, True where the lengths add up to the text's
            bytes; the spans of other texts mean nothing and offsets must decide.
        """
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(
            texts, add_special_tokens=False
        )
        ids, counts = ids_of(tokenizer, encodings)
        spans, fits = self._place(ids, counts, texts)
        if self.normalizes:
            fits &= np.array(
                [unicodedata.is_normalized("NFC", t) for t in texts], np.bool_
            )
        return Placed(ids, spans, counts), fits

    def _place(self, ids: Ints, counts: Ints, texts: list[str]) -> tuple[Ints, Bools]:
        """Spans (B, T, 2) of padded ids (B, T), and which texts fit (B,)."""
        is_token = np.arange(ids.shape[1]) < counts[:, None]
        lengths = np.where(is_token, self.lengths.take(ids, mode="clip"), 0)
        fits = lengths.min(1, initial=0) == 0  # no unused id
        raw = [text.encode() for text in texts]
        if self.prefix != "none":
            prefixed = self._prefixed(ids) & is_token
            if self.spares:
                self._spare(prefixed, lengths, raw)
            lengths -= prefixed
        sizes = np.fromiter(map(len, raw), np.int64, len(raw))
        end = cumulative(lengths.copy())  # bytes of the text up to each token's end
        fits &= end[:, -1:].sum(1) == sizes
        if self.prefix != "none":  # a written marker looks like a blank
            fits &= np.array([MARKER not in text for text in texts], dtype=np.bool_)
        spans = np.empty((*ids.shape, 2), dtype=np.int64)
        if sum(map(len, texts)) == sizes.sum():
            np.subtract(end, lengths, out=spans[..., 0])
            spans[..., 1] = end
            return spans, fits
        # All texts in one line of bytes; what follows the last begins a character. In
        # UTF-8 (RFC 3629, section 3) every byte but 10xxxxxx begins one. A token that
        # ends within a character holds it, as does the token that goes on there: a span
        # goes from its first byte's character to all that have begun before its end.
        joined = np.frombuffer(b"".join([*raw, b"."]), dtype=np.uint8)
        chars = np.zeros(len(joined) + 1, dtype=np.int64)  # characters up to a byte
        chars[1:] = (joined & 0xC0) != 0x80
        cumulative(chars)
        first = (np.cumsum(sizes) - sizes)[:, None]
        before = chars.take(first)
        end += first
        spans[..., 0] = chars.take(end - lengths + 1, mode="clip") - 1 - before
        spans[..., 1] = chars.take(end, mode="clip") - before
        return spans, fits

    def _prefixed(self, ids: Ints) -> Bools:
        """(B, T), the tokens that begin with a blank which is not in the text."""
        added = self.added.take(ids, mode="clip")
        first = np.zeros(ids.shape, dtype=np.bool_)
        first[:, :1] = True
        if self.prefix == "always":
            first[:, 1:] |= added[:, :-1]
        return first & ~added

    def _spare(self, prefixed: Bools, lengths: Ints, raw: list[bytes]) -> None:
        """Take back, in place, the blanks before text that begins with one."""
        for row, place in zip(*np.nonzero(prefixed), strict=True):
            bytes_read = lengths[row, :place].sum() - prefixed[row, :place].sum()
            prefixed[row, place] = raw[row][bytes_read : bytes_read + 1] != b" "


def _steps(component: Any) -> list[dict[str, Any]]:
    """The settings of a pipeline's steps in order, of an unknown type where it cannot
    be asked."""
    if component is None:
        return []
    try:
        state = json.loads(component.__getstate__())
    except Exception:  # custom Python components cannot be serialised
        return [{"type": "custom"}]
    return _flat(state)


def _flat(state: dict[str, Any]) -> list[dict[str, Any]]:
    inner = state.get("pretokenizers", state.get("normalizers"))
    if state["type"] != "Sequence" or inner is None:
        return [state]
    return [step for part in inner for step in _flat(part)]


def _keeps(steps: list[dict[str, Any]]) -> bool:
    """Whether steps cut text and leave all of it.

    What a ``Removed`` split drops shows in lengths that do not add up; inverted, its
    pattern is meant to fit everything.
    """
    return all(
        step["type"] in _KEEPING
        and (step.get("behavior") != "Removed" or step.get("invert", False))
        for step in steps
    )


def _byte_level(
    normalizer: list[dict[str, Any]], splitter: list[dict[str, Any]]
) -> tuple[Prefix, bool] | None:
    """How a pipeline that maps bytes one to one adds a blank; None for others."""
    places = [n for n, step in enumerate(splitter) if step["type"] == "ByteLevel"]
    if normalizer not in ([], [{"type": "NFC"}]) or len(places) != 1:
        return None
    (place,) = places
    blank = splitter[place]["add_prefix_space"]
    if not _keeps([*splitter[:place], *splitter[place + 1 :]]) or (blank and place):
        return None  # behind a split every part would get a blank
    return ("always", True) if blank else ("none", False)


def _marked(
    normalizer: list[dict[str, Any]], splitter: list[dict[str, Any]]
) -> tuple[Prefix, bool] | None:
    """How a pipeline that only writes blanks as ``▁`` adds one; None for others."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": MARKER}
    prepend = {"type": "Prepend", "prepend": MARKER}
    places = [n for n, step in enumerate(splitter) if step["type"] == "Metaspace"]
    other_steps = [step for step in splitter if step["type"] != "Metaspace"]
    if not _keeps(other_steps):
        return None
    if not places and normalizer == [prepend, replace]:
        return "always", False
    if not places and normalizer == [replace]:
        return "none", False
    if len(places) != 1 or normalizer:
        return None
    (place,) = places
    scheme = splitter[place].get("prepend_scheme", "always")
    schemes: dict[str, Prefix] = {"never": "none", "first": "first", "always": "always"}
    if splitter[place].get("replacement") != MARKER or scheme not in schemes:
        return None
    if place and scheme != "never":
        return None  # behind a split every part would get a blank
    return schemes[scheme], True


def _marked_size(piece: str) -> int:
    """Bytes of text that a SentencePiece piece stands for."""
    if byte_of_piece(piece) is not None:
        return 1
    return len(piece.replace(MARKER, " ").encode())
