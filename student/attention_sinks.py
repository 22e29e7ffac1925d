"""Leave attention sinks out of what is compared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from align.reading import Reading
from align.tokens.batch import TokenBatch
from align.views import TeacherView


def without_sinks(
    batch: TokenBatch, views: Sequence[TeacherView | Reading], count: int
) -> Tensor:
    """Leave attention sinks out, the student's and each teacher's own.

    A teacher without a begin-of-text token has its sink in the first word, which
    the student, behind its own begin-of-text token, reads as a word like others.

    Returns:
        (B, T, M) bool: False on padding, on the student's first ``count`` tokens
        and where one of teacher m's first ``count`` tokens feeds the student.
    """
    student_clear = batch.mask & (batch.mask.cumsum(1) > count)
    clear = student_clear[..., None].repeat(1, 1, len(views))
    for m, view in enumerate(views):
        if view.origin is not None:
            clear[..., m] &= view.origin >= count
            continue
        pairs, tokens = view.alignment, max(view.alignment.shape[2], 1)
        fed = pairs.rows[pairs.cols % tokens < count]
        clear.view(-1, len(views))[fed, m] = False
    return clear
