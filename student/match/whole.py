"""Distances between all of a pass's tokens together, in the student and in a teacher.

They are statistics, not means over tokens: cut into other passes, an optimiser step has
other ones. Each pass counts by its share of the step's predicted tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from align.schedules import ScheduledPositive
from align.schedules.setting import settled
from align.support.field_types import AtLeastOne

_LEAST_SPREAD = 1e-10
"""Of the mean square: below it tokens are all alike, and rounding is what differs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cka:
    """1 - linear centred kernel alignment; no rotation, scale or shift changes it.

    0 where fewer than two tokens have weight, or where either side's are all alike.
    With few tokens for its many channels any two models look alike: give it passes
    with more tokens than the features are wide.

    Source:
        Kornblith et al. 2019, Similarity of Neural Network Representations Revisited
        (arXiv 1905.00414), eq. 3, of tokens with weights.
    """

    per_token: ClassVar[bool] = False
    equal_widths: ClassVar[bool] = False
    ignores_rotation: ClassVar[bool] = True

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`student.match.distance.Distance.__call__`."""
        share = _shares(weight.flatten(1).to(pred.dtype))
        (x, spread_x), (y, spread_y) = (
            _spread(side.flatten(1, 2), share) for side in (pred, target)
        )
        if x.shape[1] <= min(x.shape[2], y.shape[2]):  # a kernel is the smaller product
            kernel_x, kernel_y = x @ x.mT, y @ y.mT
            cross = (kernel_x * kernel_y).sum((1, 2))
        else:
            kernel_x, kernel_y = x.mT @ x, y.mT @ y
            cross = (x.mT @ y).square().sum((1, 2))
        lengths = kernel_x.square().sum((1, 2)) * kernel_y.square().sum((1, 2))
        real = spread_x & spread_y & ((weight > 0).flatten(1).sum(1) > 1)
        alignment = cross / torch.where(real, lengths, torch.ones_like(lengths)).sqrt()
        return torch.where(real, 1 - alignment, torch.zeros_like(alignment))


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """Mean over pairs of different channels of the squared difference of two
    correlations: how each two channels go together over the pass's tokens.

    0 where fewer than two tokens have weight. A channel that stands still goes with
    none. No scale or shift of a channel changes it; a rotation does.

    Source:
        ``‖Corr(F_S) - Corr(F_T)‖²`` of recipes for distillation. Departure: the mean
        over pairs in place of the sum over entries, whose diagonal is 1 on both sides.
    """

    per_token: ClassVar[bool] = False
    equal_widths: ClassVar[bool] = True

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`student.match.distance.Distance.__call__`."""
        share = _shares(weight.flatten(1).to(pred.dtype))
        ours, theirs = (_correlated(x.flatten(1, 2), share) for x in (pred, target))
        width = pred.shape[-1]
        apart = (ours - theirs).square()
        apart = apart.sum((1, 2)) - apart.diagonal(dim1=1, dim2=2).sum(1)
        real = (weight > 0).flatten(1).sum(1) > 1
        return torch.where(real, apart / max(width * (width - 1), 1), 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mmd:
    """Squared maximum mean discrepancy, by a Gaussian kernel.

    How differently tokens are spread, whichever of them is which.

    Source:
        Gretton et al. 2012, A Kernel Two-Sample Test, eq. 5 (the biased estimate, never
        below 0), of tokens with weights.
    """

    per_token: ClassVar[bool] = False
    equal_widths: ClassVar[bool] = True
    bandwidth: ScheduledPositive | None = None
    """Standard deviation of the kernel, in the features' units; null: the root of the
    mean squared distance of two of the teacher's tokens."""
    tokens: AtLeastOne = 512
    """Most tokens of a pass that are compared, evenly chosen."""

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`student.match.distance.Distance.__call__`."""
        weight = weight.flatten(1).to(pred.dtype)
        chosen = evenly_known(weight, self.tokens)
        share = _shares(weight[:, chosen])
        x, y = (side.flatten(1, 2)[:, chosen] for side in (pred, target))
        width = self._squared_width(y, share)
        within = sum(_mean_kernel(side, side, share, width) for side in (x, y))
        apart = within - 2 * _mean_kernel(x, y, share, width)
        return torch.as_tensor(apart).clamp_min(0)

    def _squared_width(self, y: Tensor, share: Tensor) -> Tensor:
        """(L, 1, 1)."""
        if self.bandwidth is not None:
            return y.new_full((len(y), 1, 1), settled(self.bandwidth) ** 2)
        square = _centred(y, share).square().sum((1, 2))
        real = square > _LEAST_SPREAD * _mean_square(y, share)
        # tokens all alike have no distance of their own: then any kernel will do
        return torch.where(real, 2 * square, torch.ones_like(square))[:, None, None]


def evenly_known(weight: Tensor, most: int) -> Tensor:
    """(K,) int64, at most so many of the tokens that have weight in a layer.

    Args:
        weight: (L, N).
        most: K.
    """
    known = (weight > 0).any(0).nonzero()[:, 0]
    if len(known) <= most:
        return known
    return known[torch.arange(most, device=known.device) * len(known) // most]


def _shares(weight: Tensor) -> Tensor:
    """(L, N) weights that sum to 1, or to 0."""
    total = weight.sum(1, keepdim=True)
    return weight / torch.where(total > 0, total, torch.ones_like(total))


def _centred(x: Tensor, share: Tensor) -> Tensor:
    """(L, N, C) around the mean, each token by the root of its share."""
    mean = (x * share[..., None]).sum(1, keepdim=True)
    return (x - mean) * share.sqrt()[..., None]


def _correlated(x: Tensor, share: Tensor) -> Tensor:
    """(L, N, C) -> (L, C, C), between channels; 0 of one that stands still."""
    centred = _centred(x, share)
    square = centred.square().sum(1, keepdim=True)
    whole = (x.square() * share[..., None]).sum(1, keepdim=True)
    moves = square > _LEAST_SPREAD * whole
    size = torch.where(moves, square, torch.ones_like(square)).sqrt()
    unit = torch.where(moves, centred / size, torch.zeros_like(centred))
    return unit.mT @ unit


def _mean_square(x: Tensor, share: Tensor) -> Tensor:
    """(L,)."""
    return (x.square().sum(2) * share).sum(1)


def _spread(x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Centred tokens whose squares sum to 1, and (L,) whether they differ at all."""
    centred = _centred(x, share)
    square = centred.square().sum((1, 2))
    real = square > _LEAST_SPREAD * _mean_square(x, share)
    size = torch.where(real, square, torch.ones_like(square)).sqrt()
    return centred / size[:, None, None], real


def _mean_kernel(x: Tensor, y: Tensor, share: Tensor, width: Tensor) -> Tensor:
    """(L,): mean of exp(-|x - y|² / (2 width)) over all pairs."""
    squares = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None]
    apart = (squares - 2 * x @ y.mT).clamp_min(0)
    kernel = (-apart / (2 * width)).exp()
    return torch.einsum("li,lij,lj->l", share, kernel, share)
