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

from align.time_align import Alignment
from align.tokens.batch import TokenBatch, encode_batch
from align.tokens.overlap import (
    Line,
    Pairs,
    causal_overlaps,
    check_spans,
    last_readable,
    lines,
    overlaps,
)
from align.tokens.pieces import locate_pieces

__all__ = [
    "CausalCharIoUAligner",
    "CharIoUAligner",
    "ChunkEndAligner",
    "LastTokenAligner",
    "TokenBatch",
    "build_char_align_matrix",
    "char_iou",
    "encode_batch",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def char_iou(student_spans: Tensor, teacher_spans: Tensor) -> Tensor:
    """Score the overlap of every student token with every teacher token.

    This is the dense definition, quadratic in the length; aligners use
    :func:`align.tokens.overlap.overlaps`.

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
    check_spans("student_spans", student_spans)
    check_spans("teacher_spans", teacher_spans)
    s, t = student_spans[:, None], teacher_spans[None]  # (T_s, 1, 2), (1, T_t, 2)
    start = torch.maximum(s[..., 0], t[..., 0])
    end = torch.minimum(s[..., 1], t[..., 1])
    shared = (end - start).clamp(min=0)
    union = s[..., 1] - s[..., 0] + t[..., 1] - t[..., 0] - shared
    return shared / union.clamp(min=1)  # two empty spans: 0 / 1


@dataclass(frozen=True, slots=True)
class CharIoUAligner:
    """Average teacher tokens by their character overlap (future included)."""

    causal: bool = False

    def __call__(self, student: TokenBatch, teacher: TokenBatch) -> Alignment:
        """Align two tokenizations of the same texts; rows sum to 1."""
        s, t = _lines(student, teacher)
        pairs = overlaps(s, t)
        return _alignment(student, teacher, (s, t), pairs, _iou(pairs))


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
        s, t = _lines(student, teacher)
        pairs = causal_overlaps(s, t, self.fallback_last)
        scores = _iou(pairs)
        scores[pairs.shared == 0] = 1  # fallen back, alone in its row
        return _alignment(student, teacher, (s, t), pairs, scores)


@dataclass(frozen=True, slots=True)
class LastTokenAligner:
    """Give each student token the last teacher token that has read no further.

    A decoder's newest token has read the most. Student tokens beyond the teacher's
    text (it may have been cut earlier) get none.
    """

    causal: bool = True

    def __call__(self, student: TokenBatch, teacher: TokenBatch) -> Alignment:
        """Align two tokenizations of the same texts; every weight is 1."""
        s, t = _lines(student, teacher)
        last = last_readable(s, t, np.arange(len(s.index)))
        rows = np.flatnonzero(last >= 0)
        return _one_to_one(student, teacher, (s, t), rows, last[rows])


@dataclass(frozen=True, slots=True)
class ChunkEndAligner:
    """Compare models only where both have read exactly the same text.

    A chunk ends at a character boundary where a student token ends and a teacher
    token ends, neither having touched what comes after. The token that ends a chunk
    gets the teacher's token that ends it, with weight 1; tokens inside a chunk get
    none. Coverage is lower and every comparison is exact.
    """

    causal: bool = True

    def __call__(self, student: TokenBatch, teacher: TokenBatch) -> Alignment:
        """Align two tokenizations of the same texts; every weight is 1."""
        s, t = _lines(student, teacher)
        ends_s, ends_t = (np.flatnonzero(x.touched == x.complete) for x in (s, t))
        if not len(ends_t):
            ends_s = ends_s[:0]
        at = np.searchsorted(t.end[ends_t], s.end[ends_s], "right") - 1
        same = at >= 0
        same &= t.end[ends_t].take(at, mode="clip") == s.end[ends_s]
        return _one_to_one(student, teacher, (s, t), ends_s[same], ends_t[at[same]])


def build_char_align_matrix(
    student_tokens: Sequence[str] | Sequence[tuple[int, int]] | Tensor,
    teacher_tokens: Sequence[str] | Sequence[tuple[int, int]] | Tensor,
    text: str,
) -> Tensor:
    """Weigh every teacher token for every student token by shared characters.

    One text's dense matrix of what :class:`CharIoUAligner` finds sparsely for a batch,
    by the same sweep; a run uses aligners.

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
    s, t = lines(student[None], teacher[None])
    pairs = overlaps(s, t)
    weights = _normalised(pairs, _iou(pairs), len(s.index))
    A = torch.zeros(len(student), len(teacher))
    A[s.index[pairs.rows], t.index[pairs.cols]] = torch.from_numpy(weights)
    return A


def _as_spans(
    name: str, tokens: Sequence[str] | Sequence[tuple[int, int]] | Tensor, text: str
) -> Tensor:
    if not isinstance(tokens, Tensor) and len(tokens) and isinstance(tokens[0], str):
        spans = locate_pieces([str(piece) for piece in tokens], text)
    else:
        spans = torch.as_tensor(tokens, dtype=torch.int64).reshape(-1, 2)
    check_spans(name, spans)
    if len(spans) and (int(spans.min()) < 0 or int(spans.max()) > len(text)):
        raise ValueError(
            f"{name} reaches {int(spans.min())}..{int(spans.max())}, but the text has "
            f"characters 0..{len(text)}; give offsets into this text"
        )
    return spans


def _lines(student: TokenBatch, teacher: TokenBatch) -> tuple[Line, Line]:
    if student.texts != teacher.texts:
        raise ValueError(
            f"student and teacher tokens are of different texts ({len(student.texts)} "
            f"and {len(teacher.texts)}); encode the same list for both"
        )
    return lines(student.spans, teacher.spans)


def _iou(pairs: Pairs) -> Floats:
    return np.divide(pairs.shared, pairs.union, dtype=np.float32)


def _normalised(pairs: Pairs, scores: Floats, size: int) -> Floats:
    """Scores that sum to 1 in each of ``size`` rows."""
    total = np.bincount(pairs.rows, scores, minlength=size)
    return np.divide(scores, total.take(pairs.rows), dtype=np.float32)


def _one_to_one(
    student: TokenBatch,
    teacher: TokenBatch,
    laid: tuple[Line, Line],
    rows: Ints,
    cols: Ints,
) -> Alignment:
    pairs = Pairs.of(*laid, rows, cols)
    return _alignment(student, teacher, laid, pairs, np.ones(len(rows), np.float32))


def _alignment(
    student: TokenBatch,
    teacher: TokenBatch,
    laid: tuple[Line, Line],
    pairs: Pairs,
    scores: Floats,
) -> Alignment:
    batch, students = student.ids.shape
    arrays = (
        laid[0].index.take(pairs.rows),
        laid[1].index.take(pairs.cols),
        _normalised(pairs, scores, len(laid[0].index)),
        pairs.shared.astype(np.float32),
    )
    device = student.ids.device
    rows, cols, weights, shared = (torch.from_numpy(a).to(device) for a in arrays)
    return Alignment(
        rows, cols, weights, (batch, students, teacher.ids.shape[1]), shared=shared
    )
