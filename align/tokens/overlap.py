"""Meet two lists of token spans in time that grows with their sum.

All texts of a batch lie one after another in a single line of characters, so that a
few array operations serve the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from align.tokens.placed import cumulative

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Line:
    """The tokens of B texts that hold characters, in one line of characters."""

    index: Ints
    """(n,) int64 into B * T."""
    start: Ints
    """(n,) int64, first character."""
    end: Ints
    """(n,) int64, past the last character."""
    width: int
    """T."""

    @cached_property
    def touched(self) -> Ints:
        """(n,) int64: up to this token, nothing at or after it has been read."""
        return self.end if _ascends(self.end) else np.maximum.accumulate(self.end)

    @cached_property
    def ahead(self) -> Ints:
        """(n,) int64: from this token on, nothing before it is read."""
        if _ascends(self.start):
            return self.start
        return np.minimum.accumulate(self.start[::-1])[::-1]

    @cached_property
    def complete(self) -> Ints:
        """(n,) int64: after this token, the characters up to it are read whole."""
        complete_until = self.end.copy()
        np.minimum(complete_until[:-1], self.ahead[1:], out=complete_until[:-1])
        return complete_until

    def text(self, tokens: Ints) -> Ints:
        """The text that each of some tokens is of."""
        return self.index.take(tokens) // self.width


def _ascends(bounds: Ints) -> bool:
    """Whether no bound is below the one before: true of all but made-up spans."""
    return bool((bounds[1:] >= bounds[:-1]).all())


def lines(student_spans: Tensor, teacher_spans: Tensor) -> tuple[Line, Line]:
    """Lay two tokenizations of the same B texts into one line.

    Args:
        student_spans: (B, T_s, 2) int64 [start, end) in characters.
        teacher_spans: (B, T_t, 2) int64.

    Raises:
        ValueError: a span ends before it starts.
    """
    arrays = [student_spans.cpu().numpy(), teacher_spans.cpu().numpy()]
    names = ("student_spans", "teacher_spans")
    step = max(int(spans[..., 1].max(initial=0)) for spans in arrays) + 1
    laid = []
    for name, spans in zip(names, arrays, strict=True):
        batch, width, _ = spans.shape
        shift = np.arange(0, batch * step, step, dtype=np.int64)[:, None]
        start = (spans[..., 0] + shift).reshape(-1)
        end = (spans[..., 1] + shift).reshape(-1)
        if (end < start).any():
            check_spans(name, spans)
        index = np.flatnonzero(end > start)
        laid.append(Line(index, start.take(index), end.take(index), width))
    return laid[0], laid[1]


def check_spans(name: str, spans: Ints | Tensor) -> None:
    """Refuse a span that ends before it starts.

    Args:
        name: what the caller calls the spans.
        spans: (..., 2) integers.

    Raises:
        ValueError: naming the first such span.
    """
    flat = np.asarray(spans).reshape(-1, 2)
    wrong = np.flatnonzero(flat[:, 1] < flat[:, 0])
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{name}[{row}] is {flat[row].tolist()}: a span cannot end before it "
            "starts; give [start, end) character offsets"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Student and teacher tokens that belong together, ascending by student."""

    rows: Ints
    """(N,) int64 into the student's line."""
    cols: Ints
    """(N,) int64 into the teacher's line."""
    shared: Ints
    """(N,) int64, characters that both hold."""
    union: Ints
    """(N,) int64, characters from the first to the last of both: those that either
    holds, where they share any."""

    @classmethod
    def of(cls, student: Line, teacher: Line, rows: Ints, cols: Ints) -> Pairs:
        """Measure what the tokens of each pair have in common."""
        start, other = student.start.take(rows), teacher.start.take(cols)
        end, another = student.end.take(rows), teacher.end.take(cols)
        shared = np.minimum(end, another)
        shared -= np.maximum(start, other)
        np.maximum(shared, 0, out=shared)
        union = np.maximum(end, another, out=end)
        union -= np.minimum(start, other, out=start)
        return cls(rows, cols, shared, union)

    def only(self, keep: Bools) -> Pairs:
        """Some of the pairs."""
        if keep.all():
            return self
        kept = np.flatnonzero(keep)
        return Pairs(
            self.rows.take(kept),
            self.cols.take(kept),
            self.shared.take(kept),
            self.union.take(kept),
        )


def overlaps(student: Line, teacher: Line) -> Pairs:
    """List the pairs that share characters, spans that repeat or nest included."""
    (low,) = _up_to(teacher.touched, student.start)
    (high,) = _up_to(teacher.ahead, student.end - 1)
    pairs = _between(student, teacher, low, high)
    return pairs.only(pairs.shared > 0)


def causal_overlaps(student: Line, teacher: Line, fallback: bool) -> Pairs:
    """List the overlapping pairs whose teacher token has read no further.

    Args:
        student: the student's line.
        teacher: the teacher's line.
        fallback: where a student token overlaps teacher tokens that have all read
            further, list the last one before that has not, sharing 0 characters.
    """
    low, readable = _up_to(teacher.touched, student.start, student.complete)
    (high,) = _up_to(teacher.ahead, student.end - 1)
    stop = np.minimum(high, readable)
    rows = np.flatnonzero((stop <= low) & (low < high)) if fallback else low[:0]
    last = readable.take(rows) - 1
    same = last >= 0
    same &= teacher.text(last) == student.text(rows)
    rows, last = rows[same], last[same]
    low[rows], stop[rows] = last, last + 1
    pairs = _between(student, teacher, low, stop)
    if int((pairs.shared == 0).sum()) == len(rows):
        return pairs
    fallen = np.zeros(len(low), dtype=np.bool_)
    fallen[rows] = True
    return pairs.only((pairs.shared > 0) | fallen.take(pairs.rows))


def _between(student: Line, teacher: Line, low: Ints, stop: Ints) -> Pairs:
    """Each student token with its run of teacher tokens."""
    count = np.maximum(stop - low, 0)
    rows = np.repeat(np.arange(len(count), dtype=np.int64), count)
    first = cumulative(count.copy()) - count
    cols = np.arange(len(rows), dtype=np.int64)
    cols += np.repeat(low - first, count)
    return Pairs.of(student, teacher, rows, cols)


def _up_to(bounds: Ints, *at: Ints) -> list[Ints]:
    """How many of the ascending, non-negative bounds are at or before each place.

    Args:
        bounds: (m,).
        at: lists of places, (n,) each.

    Returns:
        (n,) for each list.
    """
    size = int(bounds[-1]) + 1 if len(bounds) else 1
    if size > 8 * (len(bounds) + len(at[0])):  # few tokens in much text
        return [np.searchsorted(bounds, places, "right") for places in at]
    table = cumulative(np.bincount(bounds, minlength=1))
    return [table.take(places, mode="clip") for places in at]


def last_readable(student: Line, teacher: Line, rows: Ints) -> Ints:
    """The last teacher token that has read no further than each student token.

    Args:
        student: the student's line.
        teacher: the teacher's line.
        rows: (n,) int64 into the student's line.

    Returns:
        (n,) int64 into the teacher's line; -1 before the first readable token of the
        same text, and from the end of the teacher's text on.
    """
    if not len(teacher.end) or not len(rows):
        return np.full(len(rows), -1, dtype=np.int64)
    (readable,) = _up_to(teacher.touched, student.complete)
    last_columns = readable.take(rows) - 1
    text = student.text(rows)
    texts = np.arange(1, int(text[-1]) + 2)
    last = np.searchsorted(teacher.index, texts * teacher.width) - 1  # of each text
    valid = (last_columns >= 0) & (teacher.text(last_columns) == text)
    valid &= student.start.take(rows) < teacher.touched.take(last).take(text)
    return np.where(valid, last_columns, -1)
