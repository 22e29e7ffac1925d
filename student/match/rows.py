"""How far one head's attention is from another's, query by query.

A row is a distribution over the tokens of a text; one whose teacher's side is unknown
is 0 and has no weight. All sum over tokens, so that padding, to which nobody attends,
counts for nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from align.errors import InputError
from align.schedules import ScheduledPositive
from align.schedules.setting import settled

_LEAST = 1e-9
"""The least probability of which a logarithm is taken."""
_LEAST_MASS = 1e-3
"""What of a teacher's row must lie on the compared tokens."""
_SOME = re.compile(r"(local|global|top):([1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class _OfRows:
    per_token: ClassVar[bool] = True
    equal_widths: ClassVar[bool] = True
    rows: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Kl(_OfRows):
    """KL(teacher || student), nats."""

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`student.match.distance.Distance.__call__`."""
        return _kl(target, pred)


@dataclass(frozen=True, kw_only=True, slots=True)
class Js(_OfRows):
    """Jensen-Shannon divergence, nats: symmetric, and at most ln 2.

    Source:
        Lin 1991, Divergence measures based on the Shannon entropy, eq. 4.1 with equal
        weights.
    """

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`student.match.distance.Distance.__call__`."""
        middle = (pred + target) / 2
        return (_kl(pred, middle) + _kl(target, middle)) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Wasserstein(_OfRows):
    """How many tokens attention has to be carried from one to the other, on average.

    Source:
        The first Wasserstein distance on a line is the area between the distribution
        functions (Vallender 1974).
    """

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`student.match.distance.Distance.__call__`."""
        return (pred - target).cumsum(-1).abs().sum(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparse(_OfRows):
    """Absolute difference, summed over the tokens that the teacher attends to."""

    threshold: ScheduledPositive = 0.01
    """The least attention that counts as such."""

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`student.match.distance.Distance.__call__`."""
        return ((pred - target).abs() * (target > settled(self.threshold))).sum(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Squared(_OfRows):
    """Squared difference, summed over tokens.

    Source:
        Jiao et al. 2020, TinyBERT (arXiv 1909.10351), eq. 7. Departures: probabilities
        in place of scores; a sum in place of a mean, which longer padding would shrink.
    """

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`student.match.distance.Distance.__call__`."""
        return (pred - target).square().sum(-1)


def check_keys(keys: str) -> None:
    """See that tokens are meant that rows can be compared on.

    Raises:
        InputError: they cannot.
    """
    if keys != "all" and _SOME.fullmatch(keys) is None:
        raise InputError(
            f"keys is {keys!r}; give all, local:N (nearer than N tokens), global:N "
            "(the others) or top:K (those that the teacher attends to most)"
        )


def restricted(
    pred: Tensor, target: Tensor, rows: Tensor, keys: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides on some of the tokens alone, scaled to 1 there.

    Args:
        pred: (..., B, R, T) probabilities.
        target: likewise, 0 where unknown.
        rows: (B, R) int64, the query positions.
        keys: ``all``, ``local:N``, ``global:N`` or ``top:K``.

    Returns:
        Both, and (..., B, R) bool: rows of which the teacher has something there.
    """
    known = target.sum(-1) > 0
    some = _SOME.fullmatch(keys)
    if some is None:
        return pred, target, known
    tokens, number = target.shape[-1], int(some[2])
    if some[1] == "top":
        likeliest = target.topk(min(number, tokens), dim=-1).indices
        kept = torch.zeros_like(target, dtype=torch.bool).scatter_(-1, likeliest, True)
    else:
        away = rows[..., None] - torch.arange(tokens, device=rows.device)
        kept = (away.abs() < number) == (some[1] == "local")
    pred, target = pred * kept, target * kept
    mass = target.sum(-1, keepdim=True)
    target = target / mass.clamp_min(_LEAST)
    pred = pred / pred.sum(-1, keepdim=True).clamp_min(_LEAST_MASS)
    return pred, target, mass[..., 0] > _LEAST_MASS


def _kl(left: Tensor, right: Tensor) -> Tensor:
    """Sum over the last axis of left * (log left - log right); 0 log 0 = 0."""
    ratio = left.clamp_min(_LEAST).log() - right.clamp_min(_LEAST).log()
    return (left * ratio).sum(-1)
