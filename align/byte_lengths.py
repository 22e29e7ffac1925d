"""Character spans of tokens without asking for offsets.

Copying offsets out of a tokenizer costs more than aligning with them. Where every
token stands for a fixed number of bytes, as in byte-level vocabularies and in
SentencePiece ones that fall back to bytes, the cumulative sum of these lengths says
where each token lies.
"""

from __future__ import annotations

import json
import unicodedata
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from align.cumulative import cumulative

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MARKER = "▁"
"""SentencePiece's stand-in for a blank."""

Prefix = Literal["none", "first", "always"]
"""Whether a blank that is not in the text is put before it: never, at its start, or
also after each special token in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """The tokens of B texts in one line, without special tokens around them."""

    ids: Ints
    """(N,) int64."""
    spans: Ints
    """(N, 2) int64 [start, end) in characters of the token's own text."""
    counts: Ints
    """(B,) int64, tokens of each text."""


@dataclass(frozen=True, slots=True, eq=False)
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
        normalizer, splitter = _state(backend.normalizer), _state(backend.pre_tokenizer)
        prefix: Prefix | None
        if normalizer in (None, {"type": "NFC"}) and _plain_byte_level(splitter):
            prefix, marked = "none", False
        else:
            prefix, marked = _marked_prefix(normalizer, splitter), True
            if prefix is None or not getattr(backend.model, "byte_fallback", False):
                return None
        vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=False)
        added_tokens = backend.get_added_tokens_decoder()
        size = max([*vocabulary.values(), *added_tokens], default=-1) + 1
        lengths = np.full(size, -1, dtype=np.int64)
        sizes = map(_marked_size if marked else len, vocabulary)
        lengths[list(vocabulary.values())] = list(sizes)
        added = np.zeros(size, dtype=np.bool_)
        for id_, token in added_tokens.items():
            lengths[id_] = len(token.content.encode())
            added[id_] = True
        return cls(lengths, added, normalizer == {"type": "NFC"}, prefix)

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
        ids, counts = ids_of(encodings)
        spans, fits = self._place(ids, counts, texts)
        if self.normalizes:
            fits &= np.array(
                [unicodedata.is_normalized("NFC", t) for t in texts], np.bool_
            )
        return Placed(ids, spans, counts), fits

    def spans(self, ids: Ints, text: str) -> Ints | None:
        """Place ids in their text.

        Args:
            ids: (n,) int64 that together spell ``text``.
            text: the text.

        Returns:
            (n, 2) int64 [start, end) in characters, byte tokens of one character
            sharing its span; None where the bytes do not add up.
        """
        counts = np.array([len(ids)], dtype=np.int64)
        spans, fits = self._place(ids, counts, [text])
        return spans if bool(fits[0]) else None

    def _place(self, ids: Ints, counts: Ints, texts: list[str]) -> tuple[Ints, Bools]:
        """Spans (N, 2) of B texts' tokens in one line, and which texts fit (B,)."""
        lengths = self.lengths.take(ids)
        last_of = np.cumsum(counts)
        unknown = np.flatnonzero(lengths <= 0)
        if self.prefix != "none":
            lengths[self._prefixed(ids, counts)] -= 1
        total = np.zeros(len(ids) + 1, dtype=np.int64)  # bytes before each token
        total[1:] = lengths
        cumulative(total)
        begin = total[last_of - counts]  # of each text
        raw = [text.encode("utf-8", errors="surrogatepass") for text in texts]
        sizes = np.fromiter(map(len, raw), np.int64, len(raw))
        fits = total[last_of] - begin == sizes
        if len(unknown):
            fits[np.searchsorted(last_of, unknown, "right")] = False
        if self.prefix != "none":  # a written marker looks like a blank
            fits &= np.array([MARKER not in text for text in texts], dtype=np.bool_)
        spans = np.empty((len(ids), 2), dtype=np.int64)
        if sum(map(len, texts)) == sizes.sum():
            shift = np.repeat(begin, counts)
            np.subtract(total[:-1], shift, out=spans[:, 0])
            np.subtract(total[1:], shift, out=spans[:, 1])
            return spans, fits
        # Bytes before each text in the joined bytes, against those in the tokens
        start = np.cumsum(sizes) - sizes
        joined = np.frombuffer(b"".join(raw), dtype=np.uint8)
        chars = np.zeros(len(joined) + 1, dtype=np.int64)  # characters up to a byte
        chars[1:] = (joined & 0xC0) != 0x80
        cumulative(chars)
        shift = np.repeat(start - begin, counts)
        first = np.repeat(chars[start], counts)
        spans[:, 0] = chars.take(total[:-1] + shift + 1, mode="clip") - 1 - first
        spans[:, 1] = chars.take(total[1:] + shift, mode="clip") - first
        return spans, fits

    def _prefixed(self, ids: Ints, counts: Ints) -> Ints:
        """Places of the tokens that begin with a blank which is not in the text."""
        start = np.zeros(len(ids), dtype=np.bool_)
        start[(np.cumsum(counts) - counts)[counts > 0]] = True
        added = self.added[ids]
        if self.prefix == "always":
            start[1:] |= added[:-1]
        return np.flatnonzero(start & ~added)


def ids_of(encodings: Sequence[Any]) -> tuple[Ints, Ints]:
    """The ids of B encodings in one line (N,), and how many each has (B,), int64."""
    counts = np.fromiter(map(len, encodings), np.int64, len(encodings))
    # packing a list takes two thirds of the time that numpy takes to read it
    packed = b"".join([array("Q", encoding.ids) for encoding in encodings])
    return np.frombuffer(packed, np.int64), counts


def _state(component: Any) -> Any:
    """A pipeline component's settings, {} where it cannot be asked."""
    if component is None:
        return None
    try:
        return json.loads(component.__getstate__())
    except Exception:  # custom Python components cannot be serialised
        return {}


def _plain_byte_level(state: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer maps bytes one to one and adds or drops nothing."""
    if not state:
        return False
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    for step in steps:
        if step["type"] == "Split" and step["behavior"] == "Removed":
            return False
        if step["type"] not in ("Split", "Digits", "ByteLevel"):
            return False
    last = steps[-1] if steps else {"type": "none"}
    return last["type"] == "ByteLevel" and not last["add_prefix_space"]


def _marked_prefix(normalizer: Any, splitter: Any) -> Prefix | None:
    """Where a pipeline that only writes blanks as ``▁`` adds one; None for others."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": MARKER}
    prepend = {"type": "Prepend", "prepend": MARKER}
    if splitter is None:
        if normalizer == {"type": "Sequence", "normalizers": [prepend, replace]}:
            return "always"
        return "none" if normalizer == replace else None
    if normalizer is None and splitter.get("type") == "Metaspace":
        scheme = splitter.get("prepend_scheme", "always")
        plain = splitter.get("replacement") == MARKER and not splitter.get("split")
        schemes: dict[str, Prefix] = {
            "never": "none",
            "first": "first",
            "always": "always",
        }
        return schemes.get(scheme) if plain else None
    return None


def _marked_size(piece: str) -> int:
    """Bytes of text that a SentencePiece piece stands for."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return 1
    return len(piece.replace(MARKER, " ").encode())
