"""Match two tokenizations of one string by the characters they share.

An aligner is any object with an attribute ``causal`` and a call
``(student: TokenBatch, teacher: TokenBatch) -> Alignment``. ``causal`` promises
that no teacher token feeds a student token which has read less text than it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align.pieces import locate_pieces
from align.time_align import Alignment
from align.tokens import TokenBatch, encode_batch

__all__ = [
    "CausalCharIoUAligner",
    "CharIoUAligner",
    "LastTokenAligner",
    "TokenBatch",
    "build_char_align_matrix",
    "char_iou",
    "encode_batch",
    "overlap_pairs",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def char_iou(student_spans: Tensor, teacher_spans: Tensor) -> Tensor:
    """Score the overlap of every student token with every teacher token.

    This is the dense definition, quadratic in the length; aligners use
    :func:`overlap_pairs`.

    Args:
        student_spans: (T_s, 2) int64 [start, end) in characters, that is
            Python ``str`` indices; start == end for special tokens.
        teacher_spans: (T_t, 2) int64, offsets into the same string.

    Returns:
        (T_s, T_t) float32 in [0, 1]; an all-zero row has no teacher text.

    Raises:
        ValueError: a span ends before it starts.

    Source:
        Intersection over union (Jaccard, 1912), on character intervals.
    """
    _check_spans("student_spans", student_spans)
    _check_spans("teacher_spans", teacher_spans)
    s, t = student_spans[:, None], teacher_spans[None]  # (T_s, 1, 2), (1, T_t, 2)
    start = torch.maximum(s[..., 0], t[..., 0])
    end = torch.minimum(s[..., 1], t[..., 1])
    shared = (end - start).clamp(min=0)
    union = s[..., 1] - s[..., 0] + t[..., 1] - t[..., 0] - shared
    return shared / union.clamp(min=1)  # two empty spans: 0 / 1


def overlap_pairs(
    student_spans: Tensor, teacher_spans: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """List the token pairs that share characters, in O(T_s + T_t) per sample.

    Args:
        student_spans: (B, T_s, 2) int64 [start, end) in characters; tokens with
            start == end take no part.
        teacher_spans: (B, T_t, 2) int64, offsets into the same B strings.

    Returns:
        Over N pairs, in ascending order of rows: rows (N,) int64 into B * T_s, cols
        (N,) int64 into B * T_t, IoU (N,) float32 in (0, 1], and the shared
        characters (N,) int64. They are the non-zero entries of :func:`char_iou`.

    Raises:
        ValueError: a span ends before it starts, or B differs.

    Source:
        Two sorted lists of intervals, met by binary search.
    """
    if student_spans.shape[0] != teacher_spans.shape[0]:
        raise ValueError(
            f"student_spans holds {student_spans.shape[0]} texts and teacher_spans "
            f"{teacher_spans.shape[0]}; give the same texts in the same order"
        )
    student, teacher = _flatten(student_spans, teacher_spans)
    rows, cols, shared = _sweep(student, teacher)
    union = student.length[rows] + teacher.length[cols] - shared
    device = student_spans.device
    return (
        torch.from_numpy(student.index[rows]).to(device),
        torch.from_numpy(teacher.index[cols]).to(device),
        torch.from_numpy((shared / union).astype(np.float32)).to(device),
        torch.from_numpy(shared).to(device),
    )


@dataclass(frozen=True, slots=True)
class CharIoUAligner:
    """Average teacher tokens by their character overlap (future included)."""

    causal: bool = False

    def __call__(self, student: TokenBatch, teacher: TokenBatch) -> Alignment:
        """Align two tokenizations of the same texts; rows sum to 1."""
        _check_texts(student, teacher)
        rows, cols, iou, shared = overlap_pairs(student.spans, teacher.spans)
        return _alignment(rows, cols, iou, shared.float(), student, teacher)


@dataclass(frozen=True, slots=True)
class CausalCharIoUAligner:
    """Character overlap, from teacher tokens that have read no further.

    A teacher token may feed a student token only if everything it has read is
    whole in the student's hands: ``teacher.touched_until <= student.complete_until``.
    Where a student token overlaps teacher text but no such token, as ``un`` under
    ``unbelievable``, it falls back to the last teacher token before that has read no
    further.
    """

    causal: bool = True
    fallback_last: bool = True
    """False leaves such tokens uncovered."""

    def __call__(self, student: TokenBatch, teacher: TokenBatch) -> Alignment:
        """Align two tokenizations of the same texts; rows sum to 1."""
        _check_texts(student, teacher)
        rows, cols, iou, shared = overlap_pairs(student.spans, teacher.spans)
        known = student.complete_until.reshape(-1)
        seen = teacher.touched_until.reshape(-1)
        keep = seen[cols] <= known[rows]
        late = torch.zeros_like(known, dtype=torch.bool)
        late[rows] = True
        late[rows[keep]] = False
        rows, cols, iou, shared = rows[keep], cols[keep], iou[keep], shared[keep]
        if self.fallback_last and bool(late.any()):
            last = _last_readable(student, teacher)
            extra = (late & (last >= 0)).nonzero()[:, 0]
            rows, order = torch.cat([rows, extra]).sort(stable=True)
            cols = torch.cat([cols, last[extra]])[order]
            iou = torch.cat([iou, iou.new_ones(len(extra))])[order]
            shared = torch.cat([shared, shared.new_zeros(len(extra))])[order]
        return _alignment(rows, cols, iou, shared.float(), student, teacher)


@dataclass(frozen=True, slots=True)
class LastTokenAligner:
    """Give each student token the last teacher token that has read no further.

    A decoder's newest token has read the most. Student tokens beyond the teacher's
    text (it may have been cut earlier) get none.
    """

    causal: bool = True

    def __call__(self, student: TokenBatch, teacher: TokenBatch) -> Alignment:
        """Align two tokenizations of the same texts; every weight is 1."""
        _check_texts(student, teacher)
        last = _last_readable(student, teacher)
        rows = (last >= 0).nonzero()[:, 0]
        cols = last[rows]
        s = student.spans.view(-1, 2)[rows]
        t = teacher.spans.view(-1, 2)[cols]
        shared = torch.minimum(s[:, 1], t[:, 1]) - torch.maximum(s[:, 0], t[:, 0])
        shared = shared.clamp(min=0).float()
        return _alignment(rows, cols, torch.ones_like(shared), shared, student, teacher)


def build_char_align_matrix(
    student_tokens: Sequence[str] | Sequence[tuple[int, int]] | Tensor,
    teacher_tokens: Sequence[str] | Sequence[tuple[int, int]] | Tensor,
    text: str,
) -> Tensor:
    """Weigh every teacher token for every student token by shared characters.

    Args:
        student_tokens: T_s surface pieces (``Ġun``, ``▁un``, ``##un``, ``<0xE9>`` and
            byte-level alphabets are understood; pieces that are not in the text, such
            as ``[CLS]``, get an empty span), or their spans: (T_s, 2) int64 or a list
            of (start, end).
        teacher_tokens: the same for T_t teacher tokens.
        text: the unmodified text.

    Returns:
        (T_s, T_t) float32, IoU with rows normalised to sum 1, or 0 where a student
        token has no teacher text.

    Raises:
        ValueError: a span is reversed or reaches beyond the text.
    """
    student = _as_spans("student_tokens", student_tokens, text)
    teacher = _as_spans("teacher_tokens", teacher_tokens, text)
    rows, cols, iou, _ = overlap_pairs(student[None], teacher[None])
    shape = (1, len(student), len(teacher))
    return Alignment(rows, cols, _normalise(rows, iou, len(student)), shape).dense()[0]


def _as_spans(
    name: str, tokens: Sequence[str] | Sequence[tuple[int, int]] | Tensor, text: str
) -> Tensor:
    if not isinstance(tokens, Tensor) and len(tokens) and isinstance(tokens[0], str):
        spans = locate_pieces([str(piece) for piece in tokens], text)
    else:
        spans = torch.as_tensor(tokens, dtype=torch.int64).reshape(-1, 2)
    _check_spans(name, spans)
    if len(spans) and (int(spans.min()) < 0 or int(spans.max()) > len(text)):
        raise ValueError(
            f"{name} reaches {int(spans.min())}..{int(spans.max())}, but the text has "
            f"characters 0..{len(text)}; give offsets into this text"
        )
    return spans


def _alignment(
    rows: Tensor,
    cols: Tensor,
    scores: Tensor,
    shared: Tensor,
    student: TokenBatch,
    teacher: TokenBatch,
) -> Alignment:
    batch, students = student.ids.shape
    weights = _normalise(rows, scores, batch * students)
    return Alignment(
        rows, cols, weights, (batch, students, teacher.ids.shape[1]), shared
    )


def _normalise(rows: Tensor, scores: Tensor, size: int) -> Tensor:
    total = scores.new_zeros(size).index_add_(0, rows, scores)
    return scores / total[rows]


def _last_readable(student: TokenBatch, teacher: TokenBatch) -> Tensor:
    """For each student token the last teacher token it may read, or -1.

    Returns:
        (B * T_s,) int64 into B * T_t. -1 for tokens without text, before the first
        readable teacher token, and from the end of the teacher's text on.
    """
    known = student.complete_until.cpu().numpy()
    seen = teacher.touched_until.cpu().numpy()
    batch = known.shape[0]
    step = max(known.max(initial=0), seen.max(initial=0)) + 1
    offset = np.arange(batch, dtype=np.int64)[:, None] * step
    has_text = teacher.has_text.cpu().numpy()
    text_index = np.flatnonzero(has_text)
    # touched_until is ascending in a sample, so the flattened list is sorted
    flat_seen = (seen + offset).reshape(-1)[text_index]
    found = np.searchsorted(flat_seen, (known + offset).reshape(-1), "right") - 1
    first = np.concatenate([[0], has_text.sum(1).cumsum()])[:-1]  # of each sample
    valid = found >= np.repeat(first, known.shape[1])
    valid &= student.has_text.cpu().numpy().reshape(-1)
    text_end = seen.max(axis=1, initial=0)[:, None]
    valid &= (student.spans[..., 0].cpu().numpy() < text_end).reshape(-1)
    last = np.full(known.size, -1, dtype=np.int64)
    last[valid] = text_index[found[valid]]
    return torch.from_numpy(last).to(student.ids.device)


@dataclass(frozen=True, slots=True)
class _Flat:
    """The tokens with text of all samples, in one line of characters."""

    index: Ints
    start: Ints
    end: Ints

    @property
    def length(self) -> Ints:
        return self.end - self.start


def _flatten(student: Tensor, teacher: Tensor) -> tuple[_Flat, _Flat]:
    arrays = []
    for label, spans in (("student_spans", student), ("teacher_spans", teacher)):
        _check_spans(label, spans.reshape(-1, 2))
        arrays.append(spans.cpu().numpy())
    step = max(int(a.max(initial=0)) for a in arrays) + 1
    flats = []
    for array in arrays:
        shift = np.arange(len(array), dtype=np.int64)[:, None, None] * step
        moved = (array + shift).reshape(-1, 2)
        index = np.flatnonzero(moved[:, 1] > moved[:, 0])
        flats.append(_Flat(index, moved[index, 0], moved[index, 1]))
    return flats[0], flats[1]


def _sweep(student: _Flat, teacher: _Flat) -> tuple[Ints, Ints, Ints]:
    """Overlapping pairs as (student, teacher, shared characters)."""
    # Spans may repeat or nest, hence running bounds, which are sorted in any case
    reach = np.maximum.accumulate(teacher.end)
    begin = np.minimum.accumulate(teacher.start[::-1])[::-1]
    low = np.searchsorted(reach, student.start, "right")
    high = np.searchsorted(begin, student.end, "left")
    count = np.maximum(high - low, 0)
    rows = np.repeat(np.arange(len(count), dtype=np.int64), count)
    first = np.cumsum(count) - count
    cols = np.arange(len(rows), dtype=np.int64) + np.repeat(low - first, count)
    shared = np.minimum(student.end[rows], teacher.end[cols])
    shared -= np.maximum(student.start[rows], teacher.start[cols])
    real = shared > 0
    if real.all():
        return rows, cols, shared
    return rows[real], cols[real], shared[real]


def _check_texts(student: TokenBatch, teacher: TokenBatch) -> None:
    if student.texts != teacher.texts:
        raise ValueError(
            f"student and teacher tokens are of different texts ({len(student.texts)} "
            f"and {len(teacher.texts)}); encode the same list for both"
        )


def _check_spans(name: str, spans: Tensor) -> None:
    reversed_rows = (spans[:, 1] < spans[:, 0]).nonzero()
    if len(reversed_rows):
        row = int(reversed_rows[0])
        raise ValueError(
            f"{name}[{row}] is {spans[row].tolist()}: a span cannot end before it "
            "starts; give [start, end) character offsets"
        )
