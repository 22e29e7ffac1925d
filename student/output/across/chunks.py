"""Stretches of text that two tokenizers both begin and end with a whole token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align.text.conversation import Conversation
from align.time_align import Alignment
from align.tokenizer_align import ChunkEndAligner
from align.tokens.batch import TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class ChunkTokens:
    """The tokens of one model that spell N chunks."""

    chunk: Tensor
    """(B, T) int64: the chunk that each token helps to spell, -1 for none."""
    first: Tensor
    """(N,) int64 into B * T, the first token of each chunk, never a text's first;
    ascending. The token before it predicts it."""
    last: Tensor
    """(N,) int64 into B * T, the last token of each chunk."""

    def sum(self, values: Tensor) -> Tensor:
        """Add up what the tokens of each chunk hold.

        Args:
            values: (B, T) float; what belongs to no chunk is not read, so it may be
                anything.

        Returns:
            (N,), at least float32.

        Raises:
            ValueError: ``values`` is not (B, T).
        """
        if values.shape != self.chunk.shape:
            raise ValueError(
                f"values have shape {tuple(values.shape)}, but the chunks are of "
                f"{tuple(self.chunk.shape)} tokens; give one value a token"
            )
        wide = values if values.dtype == torch.float64 else values.float()
        spelled = self.chunk >= 0
        out = wide.new_zeros(len(self.last))
        return out.index_add(0, self.chunk[spelled], wide[spelled])


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """The same N chunks of the same B texts, in the tokens of two models."""

    student: ChunkTokens
    teacher: ChunkTokens

    def __len__(self) -> int:
        """N."""
        return len(self.student.last)

    def coverage(self, student_mask: Tensor) -> float:
        """Share of the student's tokens that help to spell a chunk.

        Args:
            student_mask: (B, T_s) bool, the tokens that hold text
                (:attr:`align.TokenBatch.has_text`).

        Returns:
            A share in [0, 1]; 1 where no token holds text.
        """
        total = int(student_mask.sum())
        spelled = (self.student.chunk >= 0) & student_mask
        return int(spelled.sum()) / total if total else 1.0


def shared_chunks(
    student: TokenBatch, teacher: TokenBatch, at_blanks: bool = False
) -> Chunks:
    """Cut texts where a token of the student and a token of the teacher both end.

    A chunk reaches from one shared end to the next, so each model spells it with whole
    tokens after having read the same text. Shared ends are those of
    :class:`align.ChunkEndAligner`: whole characters. Ends inside a character that both
    spell with bytes are none: a token also says that no longer one of its vocabulary
    begins there, so the same bytes need not be the same event.

    Left out are chunks with a token that either model does not predict: the first of a
    text (a model without a begin-of-text token never predicts its first word), and
    what :attr:`align.TokenBatch.predicted` leaves out. Tokens without text spell
    nothing, except a bare ``▁``, which a model has to predict before the text it
    stands for.

    Args:
        student: (B, T_s) tokens.
        teacher: (B, T_t) tokens of the same texts.
        at_blanks: let a chunk end only where a blank follows, so that chunks are whole
            words with the blank before them; see ``end_log_probs`` of
            :func:`student.output.chunk_likelihood`.

    Returns:
        The chunks in the order of the text, on the student's device.

    Raises:
        ValueError: the two hold different texts.
    """
    ends = ChunkEndAligner()(student, teacher)
    rows, cols = ends.rows, ends.cols
    if at_blanks:
        kept = _before_blank(student, ends)
        rows, cols = rows[kept], cols[kept]
    sides, _ = _cut([student, teacher.to(student.ids.device)], [rows, cols])
    return Chunks(*sides)


@dataclass(frozen=True, slots=True, eq=False)
class CommonChunks:
    """The same N chunks of the same B texts, in the tokens of several models."""

    sides: Sequence[ChunkTokens]
    """One per model."""
    text: Tensor
    """(N,) int64, the text of each, ascending."""
    characters: Tensor
    """(N,) int64, how many each holds."""

    def __len__(self) -> int:
        """N."""
        return len(self.text)


def common_chunks(batches: Sequence[TokenBatch]) -> CommonChunks:
    """Cut texts where a token of every model ends, as :func:`shared_chunks` of two.

    Args:
        batches: (B, T_m) tokens of each of M >= 1 models.

    Returns:
        The chunks in the order of the text, on the first model's device.

    Raises:
        ValueError: they hold different texts.
    """
    first = batches[0]
    every = [batch.to(first.ids.device) for batch in batches]
    pairs = [ChunkEndAligner()(first, batch) for batch in every]
    rows = pairs[0].rows
    for ends in pairs[1:]:
        rows = rows[torch.isin(rows, ends.rows)]
    last = [ends.cols[torch.isin(ends.rows, rows)] for ends in pairs]
    sides, whole = _cut(every, last)
    text = rows // max(first.ids.shape[1], 1)
    end = first.spans.reshape(-1, 2)[rows, 1]
    begin = end.roll(1).masked_fill(text != text.roll(1), 0)
    begin[:1] = 0
    return CommonChunks(sides, text[whole], (end - begin)[whole])


def _cut(
    batches: Sequence[TokenBatch], last: Sequence[Tensor]
) -> tuple[list[ChunkTokens], Tensor]:
    """The chunks that all predict whole, and which of the ends (N,) are theirs.

    Args:
        batches: of each model.
        last: (N,) into its B * T, where each chunk ends.
    """
    spelling = [_spell(batch, ends) for batch, ends in zip(batches, last, strict=True)]
    whole = torch.stack([predicted for _, predicted in spelling]).all(0)
    sides = [
        _keep(chunk, ends, whole)
        for (chunk, _), ends in zip(spelling, last, strict=True)
    ]
    return sides, whole


def _before_blank(student: TokenBatch, ends: Alignment) -> Tensor:
    """(N,) bool: whether a blank follows the chunk that each pair ends."""
    tokens = max(student.ids.shape[1], 1)
    at = student.spans.reshape(-1, 2)[ends.rows, 1].tolist()
    texts = (student.texts[row] for row in (ends.rows // tokens).tolist())
    blank = [text[end : end + 1].isspace() for text, end in zip(texts, at, strict=True)]
    return torch.tensor(blank, dtype=torch.bool, device=ends.rows.device)


def _spell(batch: TokenBatch, last: Tensor) -> tuple[Tensor, Tensor]:
    """The chunk (B * T,) of each token, -1 for none, and which are predicted whole.

    The token after the k-th end begins chunk k + 1, for both models, because the ends
    are the same.
    """
    batch_size, tokens = batch.ids.shape
    place = torch.arange(batch_size * tokens, device=last.device)
    ends = torch.zeros_like(place).index_fill(0, last, 1)
    chunk = ends.cumsum(0) - ends
    behind = chunk >= len(last)  # the last chunk of all
    text_of_chunk = torch.cat([last, last.new_zeros(1)]) // max(tokens, 1)
    behind |= text_of_chunk[chunk.clamp(max=len(last))] != place // max(tokens, 1)
    chat = torch.tensor([isinstance(t, Conversation) for t in batch.texts])
    has_text = batch.has_text
    spells = has_text | (batch.mask & ~chat.to(last.device)[:, None])
    predicted = batch.predicted.clone()
    predicted[:, :1] = False
    missing = (has_text & ~predicted).view(-1) & ~behind
    whole = torch.ones(len(last), dtype=torch.bool, device=last.device)
    whole[chunk[missing]] = False
    counts = (spells & predicted).view(-1) & ~behind
    return chunk.masked_fill(~counts, -1).view(batch_size, tokens), whole


def _keep(chunk: Tensor, last: Tensor, whole: Tensor) -> ChunkTokens:
    """The whole chunks alone, numbered anew."""
    number = torch.cat([whole.cumsum(0) - 1, whole.new_zeros(1, dtype=torch.int64)])
    kept = torch.cat([whole, whole.new_zeros(1)])  # the last place is that of -1
    chunk = torch.where(kept[chunk], number[chunk], -1)
    flat = chunk.reshape(-1)
    spelled = (flat >= 0).nonzero()[:, 0]
    numbers = torch.arange(int(whole.sum()), device=flat.device)
    begins = spelled[torch.searchsorted(flat[spelled], numbers)]
    return ChunkTokens(chunk, begins, last[whole])
