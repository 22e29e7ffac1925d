"""Character spans of byte-level tokens without asking for offsets.

Copying offsets out of a tokenizer costs more than aligning with them. A byte-level
vocabulary needs none: every token is a fixed number of bytes, so the cumulative sum
of these lengths says where each token lies.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ByteLengths:
    """How many bytes of text each id of one byte-level vocabulary stands for."""

    lengths: Ints
    """(V,) int64, bytes of each id; -1 where an id is unused."""
    normalizes: bool
    """True where the tokenizer first brings text to Unicode's NFC."""

    @classmethod
    def of(cls, tokenizer: Any) -> ByteLengths | None:
        """Read the table out of a fast tokenizer.

        Args:
            tokenizer: a fast Hugging Face tokenizer.

        Returns:
            The table, or None where token lengths do not follow from ids alone:
            not byte-level, a blank put before the text, another normaliser.

        Source:
            The printable byte alphabet of GPT-2 (Radford et al., 2019).
        """
        backend = tokenizer.backend_tokenizer
        normalizer = _state(backend.normalizer)
        if normalizer not in (None, {"type": "NFC"}):
            return None
        if not _plain_byte_level(_state(backend.pre_tokenizer)):
            return None
        vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=False)
        added = {
            id_: token.content
            for id_, token in backend.get_added_tokens_decoder().items()
        }
        size = max([*vocabulary.values(), *added], default=-1) + 1
        lengths = np.full(size, -1, dtype=np.int64)
        lengths[list(vocabulary.values())] = [len(piece) for piece in vocabulary]
        for id_, content in added.items():
            lengths[id_] = len(content.encode())
        return cls(lengths, normalizer is not None)

    def encode(
        self, tokenizer: Any, texts: list[str]
    ) -> list[tuple[Ints, Ints]] | None:
        """Tokenise without offsets and compute the spans.

        Args:
            tokenizer: the tokenizer this table was read from.
            texts: B texts.

        Returns:
            Ids (n,) and spans (n, 2) in characters for every text, without special
            tokens; None where some text's lengths do not add up to its bytes or the
            tokenizer is set to pad or cut, so that offsets must decide.
        """
        backend = tokenizer.backend_tokenizer
        if backend.truncation is not None or backend.padding is not None:
            return None
        if self.normalizes and not all(
            unicodedata.is_normalized("NFC", text) for text in texts
        ):
            return None
        rows = []
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            ids = np.asarray(encoding.ids, dtype=np.int64)
            spans = self.spans(ids, text)
            if spans is None:
                return None
            rows.append((ids, spans))
        return rows

    def spans(self, ids: Ints, text: str) -> Ints | None:
        """Place ids in their text.

        Args:
            ids: (n,) int64 that together spell ``text``.
            text: the text.

        Returns:
            (n, 2) int64 [start, end) in characters, byte tokens of one character
            sharing its span; None where the bytes do not add up.
        """
        lengths = self.lengths[ids]
        if len(lengths) and lengths.min() <= 0:
            return None
        last = np.cumsum(lengths)
        raw = text.encode("utf-8", errors="surrogatepass")
        if (int(last[-1]) if len(last) else 0) != len(raw):
            return None
        if len(raw) == len(text):
            return np.stack([last - lengths, last], axis=1)
        first_byte = (np.frombuffer(raw, dtype=np.uint8) & 0xC0) != 0x80
        char = np.cumsum(first_byte) - 1
        return np.stack([char[last - lengths], char[last - 1] + 1], axis=1)


def _state(component: Any) -> dict[str, Any] | None:
    if component is None:
        return None
    state: dict[str, Any] = json.loads(component.__getstate__())
    return state


def _plain_byte_level(state: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer maps bytes one to one and adds or drops nothing."""
    if state is None:
        return False
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    for step in steps:
        if step["type"] == "Split" and step["behavior"] == "Removed":
            return False
        if step["type"] not in ("Split", "Digits", "ByteLevel"):
            return False
    last = steps[-1] if steps else {"type": "none"}
    return last["type"] == "ByteLevel" and not last["add_prefix_space"]
