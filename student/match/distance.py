"""How far a student's features are from fixed ones: the contract, and token by token.

A distance is given one teacher's side of the comparison and the student's, both on the
student's layers and tokens. It says either what every token costs, (L, B, T), which the
term averages by weight over the whole optimiser step; or what each layer of the pass
costs, (L,), a statistic of all its tokens together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from align.schedules import ScheduledPositive
from align.schedules.setting import settled
from student.objective import EPS


class Distance(Protocol):
    """One way of comparing; a plugin of the kind ``distance``.

    What compares rows of attention says so by an attribute ``rows`` that is True: it is
    given probabilities in place of features, head by head in place of layer by layer,
    query positions for tokens and tokens for channels.

    What compares every token by itself, whatever the others are, says so by an
    attribute ``alone`` that is True: it may then be given a few tokens at a time.

    What no rotation of either side changes says so by an attribute
    ``ignores_rotation`` that is True: features then come divided by one scale a layer,
    since dividing each channel by its own would tell a rotated model from the first.
    """

    @property
    def per_token(self) -> bool:
        """Whether it gives (L, B, T), a number for every token; else (L,)."""

    @property
    def equal_widths(self) -> bool:
        """Whether both sides must have the same width."""

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Compare.

        Args:
            pred: (L, B, T, C) float32 or float64, with the student's gradient.
            target: (L, B, T, C') of the same dtype, detached; 0 where nothing is
                aligned.
            weight: (L, B, T) float32 >= 0, detached; 0 on padding, on attention sinks
                and where nothing is aligned. Such tokens say nothing of any other.

        Returns:
            (L, B, T), or (L,); finite, also of tokens without weight.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Mse:
    """Mean over channels of the squared difference."""

    per_token: ClassVar[bool] = True
    equal_widths: ClassVar[bool] = True
    alone: ClassVar[bool] = True

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`Distance.__call__`."""
        return (pred - target).square().mean(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothL1:
    """Squared near the target, absolute far from it: outliers pull less.

    Source:
        Girshick 2015, Fast R-CNN (arXiv 1504.08083), eq. 3.
    """

    per_token: ClassVar[bool] = True
    equal_widths: ClassVar[bool] = True
    alone: ClassVar[bool] = True
    beta: ScheduledPositive = 1.0
    """Where the square ends and the line begins."""

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`Distance.__call__`."""
        apart = F.smooth_l1_loss(
            pred, target, reduction="none", beta=settled(self.beta)
        )
        return apart.mean(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine:
    """1 - cosine; lengths do not count."""

    per_token: ClassVar[bool] = True
    equal_widths: ClassVar[bool] = True
    alone: ClassVar[bool] = True

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`Distance.__call__`."""
        return 1 - F.cosine_similarity(pred, target, dim=-1, eps=EPS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gram:
    """How differently a token is like the other tokens of its text.

    Mean over the others of the squared difference of two cosines, between this token
    and the other in the student, and in the teacher. No rotation or scale of either
    side changes it.

    Source:
        Tung and Mori 2019, Similarity-Preserving Knowledge Distillation (arXiv
        1907.09682), eq. 1-4. Departures: tokens of a text in place of images of a
        batch; cosines in place of rows scaled to length 1; a token is not compared
        with itself.
    """

    per_token: ClassVar[bool] = True
    equal_widths: ClassVar[bool] = False
    ignores_rotation: ClassVar[bool] = True

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`Distance.__call__`."""
        known = (weight > 0).to(pred.dtype)
        apart = _cosines(pred) - _cosines(target)  # (L, B, T, T), 0 on the diagonal
        apart = (apart.square() * known[..., None, :]).sum(-1)
        others = known.sum(-1, keepdim=True) - known
        return apart * known / others.clamp_min(1)


def _cosines(x: Tensor) -> Tensor:
    """Of every token with every other; 1 with itself, whatever rounding says."""
    unit = F.normalize(x, dim=-1, eps=EPS)
    cosines = unit @ unit.mT
    itself = torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
    return cosines.masked_fill(itself, 1.0)


def by_known(
    compare: Callable[[Tensor, Tensor, Tensor], Tensor],
    pred: Tensor,
    target: Tensor,
    weight: Tensor,
) -> Tensor:
    """Compare texts by those of their tokens that have weight.

    Args:
        compare: from (L, B, T, C), (L, B, T, C') and (B, T) bool, which tokens, to
            (L, B, T).
        pred: as :meth:`Distance.__call__` gets it.
        target: likewise.
        weight: likewise.

    Returns:
        (L, B, T), every layer by its own tokens.
    """
    known = weight > 0
    if bool((known == known[:1]).all()):  # all but always: then layers go together
        return compare(pred, target, known[0])
    layers = zip(pred, target, known, strict=True)
    return torch.cat([compare(x[None], y[None], held) for x, y, held in layers])


def of_rows(distance: Distance) -> bool:
    """Whether a distance compares rows of attention, see :class:`Distance`."""
    return bool(getattr(distance, "rows", False))


def alone(distance: Distance) -> bool:
    """Whether a distance compares every token by itself, see :class:`Distance`."""
    return bool(getattr(distance, "alone", False))


def ignores_rotation(made: object) -> bool:
    """Whether a distance or a projector finds a rotated model alike."""
    return bool(getattr(made, "ignores_rotation", False))
