"""One batch of texts as tokens that know which characters they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align.byte_lengths import ByteLengths

MARKER = "▁"
"""SentencePiece's stand-in for a blank."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Token ids beside the characters each token holds."""

    ids: Tensor
    """(B, T) int64, padded on the right."""
    mask: Tensor
    """(B, T) bool, True on real tokens, special ones included."""
    spans: Tensor
    """(B, T, 2) int64 [start, end) in characters of the unmodified ``texts``;
    start == end for special tokens, padding and bare ``▁`` markers."""
    texts: tuple[str, ...]
    """The B texts, exactly as given."""

    def __post_init__(self) -> None:
        """Check that the fields describe one batch.

        Raises:
            ValueError: two fields differ in size, or a span is reversed.
        """
        batch, tokens = self.ids.shape if self.ids.dim() == 2 else (-1, -1)
        expected = {"mask": (batch, tokens), "spans": (batch, tokens, 2)}
        for name, shape in expected.items():
            got = tuple(getattr(self, name).shape)
            if got != shape:
                raise ValueError(
                    f"TokenBatch.{name} has shape {got}, but ids has "
                    f"{tuple(self.ids.shape)}; give {name} of shape {shape}"
                )
        if len(self.texts) != batch:
            raise ValueError(
                f"TokenBatch.texts holds {len(self.texts)} texts for {batch} rows "
                "of ids; give one text a row"
            )

    @property
    def has_text(self) -> Tensor:
        """(B, T) bool, True on tokens that hold at least one character."""
        return self.mask & (self.spans[..., 1] > self.spans[..., 0])

    @property
    def complete_until(self) -> Tensor:
        """(B, T) int64: after this token, characters [0, e) are read whole.

        Less than the end of the span where a later token holds the rest of the
        last character: the three byte tokens of ``饕`` at (0, 1) give 0, 0, 1.
        """
        spans, has_text = self.spans.cpu().numpy(), self.has_text.cpu().numpy()
        far = np.iinfo(np.int64).max
        start = np.where(has_text, spans[..., 0], far)
        later = np.full_like(start, far)  # least start among the tokens after
        later[:, :-1] = np.minimum.accumulate(start[:, :0:-1], axis=1)[:, ::-1]
        known = np.minimum(spans[..., 1], later)
        return torch.from_numpy(known).to(self.ids.device)

    @property
    def touched_until(self) -> Tensor:
        """(B, T) int64: up to this token, nothing at or after e has been read.

        A character counts as touched with its first byte.
        """
        end = torch.where(self.has_text, self.spans[..., 1], 0)
        return end.cummax(1).values if end.shape[1] else end

    def to(self, device: torch.device | str) -> TokenBatch:
        """Move the tensors."""
        return replace(
            self,
            ids=self.ids.to(device),
            mask=self.mask.to(device),
            spans=self.spans.to(device),
        )


def encode_batch(
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int | None = None,
    add_special_tokens: bool = True,
    byte_lengths: ByteLengths | None = None,
) -> TokenBatch:
    """Tokenise texts and note the characters of every token.

    Padding and truncation are on the right whatever the tokenizer's own setting,
    and special tokens survive truncation. Spans index the unmodified text.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        texts: B texts; empty ones are fine.
        max_length: longest row in tokens, special tokens included; None keeps all.
        add_special_tokens: put the tokenizer's own special tokens around a text.
        byte_lengths: :meth:`ByteLengths.of` this tokenizer, which replaces the
            slow copying of offsets for byte-level vocabularies; None never does.

    Returns:
        The batch; T is the longest row.

    Raises:
        TypeError: ``texts`` is one string, or holds something else than strings.
        ValueError: the tokenizer is slow, or max_length leaves no room.
    """
    texts = _checked_texts(texts)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"tokenizer {type(tokenizer).__name__} is not a fast tokenizer and gives "
            "no character offsets; load its tokenizer.json with AutoTokenizer or "
            "PreTrainedTokenizerFast"
        )
    prefix, suffix = _special_ids(tokenizer) if add_special_tokens else ([], [])
    room = None if max_length is None else max_length - len(prefix) - len(suffix)
    if room is not None and room < 0:
        raise ValueError(
            f"max_length {max_length} leaves no room for the "
            f"{len(prefix) + len(suffix)} special tokens of the tokenizer; give at "
            f"least {len(prefix) + len(suffix)}"
        )
    rows = byte_lengths.encode(tokenizer, texts) if byte_lengths is not None else None
    if rows is None:
        rows = _encode_with_offsets(tokenizer, texts)
    return _pad(tokenizer, rows, texts, prefix, suffix, room)


def _checked_texts(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError("texts is one string; give a list of strings")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{row}] is {type(text).__name__}; give a str")
    return list(texts)


def _special_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids a tokenizer puts before and after a text."""
    encoded = tokenizer(["a"], return_special_tokens_mask=True)
    ids, special = encoded["input_ids"][0], encoded["special_tokens_mask"][0]
    if all(special):
        return list(ids), []
    first = special.index(0)
    last = len(special) - special[::-1].index(0)
    return list(ids[:first]), list(ids[last:])


def _encode_with_offsets(tokenizer: Any, texts: list[str]) -> list[tuple[Ints, Ints]]:
    """Ids (n,) and repaired spans (n, 2) of each text, without special tokens."""
    if not texts:
        return []
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        truncation=False,
        padding=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    rows = []
    for text, ids, offsets in zip(
        texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        id_array = np.asarray(ids, dtype=np.int64)
        spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        rows.append((id_array, _repair(tokenizer, text, id_array, spans)))
    return rows


def _repair(tokenizer: Any, text: str, ids: Ints, spans: Ints) -> Ints:
    """Make spans say which characters a token has read.

    A bare ``▁`` does not share characters with the token after it: either its span
    repeats the word's first character (it holds no text and gets zero width), or it
    is the blank which the next token claims too (that one starts after it). Byte
    tokens of one character keep sharing its span.

    A character that is no blank and that no token claims was composed into the one
    before it, as an accent by NFC, and belongs to that token.
    """
    if not len(spans):
        return spans
    following = np.append(spans[1:, 0], len(text))
    shared = np.flatnonzero(following[:-1] < spans[:-1, 1])
    gaps = np.flatnonzero(following > np.maximum.accumulate(spans[:, 1]))
    if not len(shared) and not len(gaps):
        return spans
    spans = spans.copy()
    for token in gaps.tolist():
        end = int(spans[token, 1])
        while end < following[token] and not text[end].isspace():
            end += 1
        spans[token, 1] = end
    pieces = tokenizer.convert_ids_to_tokens(ids[shared].tolist())
    for token, piece in zip(shared.tolist(), pieces, strict=True):
        if piece.strip(MARKER):
            continue
        start, end = spans[token].tolist()
        if not text[start:end].isspace() or spans[token + 1, 1] <= end:
            spans[token, 1] = start
        else:
            spans[token + 1, 0] = end
    return spans


def _pad(
    tokenizer: Any,
    rows: list[tuple[Ints, Ints]],
    texts: list[str],
    prefix: list[int],
    suffix: list[int],
    room: int | None,
) -> TokenBatch:
    longest = max((len(ids) for ids, _ in rows), default=0)
    body = longest if room is None else min(longest, room)
    width = (len(prefix) + body + len(suffix)) if rows else 0
    ids_out = np.full((len(rows), width), _pad_id(tokenizer), dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.bool_)
    spans_out = np.zeros((len(rows), width, 2), dtype=np.int64)
    start = len(prefix)
    for row, (ids, spans) in enumerate(rows):
        kept = min(len(ids), body)
        stop = start + kept
        ids_out[row, :start] = prefix
        ids_out[row, start:stop] = ids[:kept]
        ids_out[row, stop : stop + len(suffix)] = suffix
        mask[row, : stop + len(suffix)] = True
        spans_out[row, start:stop] = spans[:kept]
        read = int(spans[kept - 1, 1]) if kept else 0
        spans_out[row, stop:] = read
    return TokenBatch(
        torch.from_numpy(ids_out),
        torch.from_numpy(mask),
        torch.from_numpy(spans_out),
        tuple(texts),
    )


def _pad_id(tokenizer: Any) -> int:
    for name in ("pad_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    return 0
