"""The tokens of a vocabulary that count by themselves, and what becomes of the rest.

A teacher puts nearly all of its mass on few tokens. Naming those and pouring the rest
into one bucket, the *tail*, makes a distance over a handful of numbers that still
knows how much mass it does not name: a distance on renormalised top tokens does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from align.errors import InputError
from align.tokens.named_head import NamedHead
from align.views import Head


@dataclass(frozen=True, slots=True)
class Support:
    """Which tokens are named, chosen by the teacher row by row."""

    top_k: int = 0
    """Name the teacher's k most probable tokens (with those equal to the last); 0:
    no such limit."""
    threshold: float = 0.0
    """Name tokens which the teacher gives at least this probability; in [0, 1)."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a number out of range, or both limits at once.
        """
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0, got {self.top_k}; 0 names all")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), got {self.threshold}")
        if self.top_k and self.threshold:
            raise ValueError(
                f"top_k={self.top_k} and threshold={self.threshold} both limit the "
                "support; give one of them"
            )


FULL = Support()
"""Every token is named."""


def support_beside(head: Head, support: Support) -> Support:
    """The tokens that count by themselves beside one teacher.

    Args:
        head: the teacher's. Where likeliest tokens alone were kept, these are the most
            that it can name.
        support: as asked for.

    Raises:
        InputError: tokens are named by a probability, and not all above it were kept.
    """
    if not isinstance(head, NamedHead):
        return support
    if support.threshold:
        raise InputError(
            f"threshold={support.threshold} names every token above it, but "
            f"{head.top_k} likeliest ones were kept of a teacher's output; give top_k "
            "in its place, or ask the teacher live"
        )
    return Support(min(support.top_k or head.top_k, head.top_k))


def in_tail(log_probs: Tensor, support: Support) -> Tensor | None:
    """Say which tokens are not named.

    Args:
        log_probs: (N, V) float, the teacher's log probabilities.
        support: how to choose.

    Returns:
        (N, V) bool; None where all are named.
    """
    if support.top_k and support.top_k < log_probs.shape[-1]:
        least = log_probs.topk(support.top_k, -1).values[..., -1:]
        return log_probs < least
    if support.threshold:
        return log_probs.exp() < support.threshold
    return None


def fill_tail_(teacher: Tensor, student: Tensor, support: Support) -> None:
    """Spread the teacher's tail mass as the student spreads its own, in place.

    Every divergence of the filled distribution to the student's equals that of the
    two bucketed ones, because within the bucket the ratio is constant; so do its
    gradients, with the filled values held still.

    Args:
        teacher: (N, V) float log probabilities.
        student: (N, V) float log probabilities.
        support: which tokens are named.
    """
    tail = in_tail(teacher, support)
    if tail is None:
        return
    least = torch.finfo(teacher.dtype).min
    mass = teacher.masked_fill(~tail, least).logsumexp(-1, keepdim=True)
    student_tail = student.masked_fill(~tail, least).logsumexp(-1, keepdim=True)
    torch.where(tail, student + (mass - student_tail), teacher, out=teacher)
