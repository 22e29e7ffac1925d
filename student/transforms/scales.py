"""What rounding shrinks or stretches a layer's outputs by, taken from its scales."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from align.support.matrices import lies_on_its_side, trained_weight
from align.tokens.batch import TokenBatch
from student.transforms.base import Blended, held_by
from student.transforms.inputs import read_inputs

_STILL = 1e-5
"""Variance of an output over its mean square, up to which its products in float32 say
nothing of it."""


@torch.no_grad()
def fit_scales(
    model: Any,
    layers: Sequence[tuple[Any, Blended]],
    batches: Iterable[TokenBatch],
    shifted: Collection[Any] = (),
) -> None:
    """Multiply the scales of each output by the factor with the least squared error.

    Inputs are those of the rounded model, over real tokens alone. A factor is one of an
    output, also where groups of its inputs have scales of their own, so that all of
    them are still whole numbers times scales.

    Args:
        model: computes by rounded weights; in evaluation mode.
        layers: with what rounds each, whose ``made`` takes ``factors``.
        batches: the sample.
        shifted: those whose bias takes up the mean error afterwards: their factors are
            of outputs less their mean.

    Source:
        Least squares of one number: ``E[y z] / E[z^2]`` for ``y = W x`` and
        ``z = Q(W) x``, or ``Cov(y, z) / Var(z)``. Where the factor would not be above
        0, or nothing comes out, it is 1. As with biases, all layers' inputs are read
        at once, before any scale is changed.
    """
    rounding = dict(layers)
    for blended in rounding.values():
        blended.made.factors = None
    sums: dict[Any, Tensor] = {}

    def take(layer: Any, rows: Tensor) -> None:
        weight = _before(layer, rounding[layer])
        rounded = rounding[layer].made(weight)
        y, z = (rows.to(weight.dtype) @ matrix.T for matrix in (weight, rounded))
        moments = [torch.ones_like(y), y, z, y * z, z * z]
        summed = torch.stack([moment.sum(0, dtype=torch.float64) for moment in moments])
        sums[layer] = sums[layer] + summed if layer in sums else summed

    read_inputs(model, rounding, batches, take)
    for layer, moments in sums.items():
        rounding[layer].made.factors = _factors(moments, centred=layer in shifted)


def _factors(moments: Tensor, *, centred: bool) -> Tensor:
    """(out,) float32 of (5, out): count, y, z, y z, z^2, summed over a sample."""
    count, y, z, both, square = moments
    least = 0 * square
    if centred:  # what is left of an output that never moves is rounding
        least = _STILL * square
        both, square = both - y * z / count, square - z * z / count
    factors = both / square
    usable = (square > least) & (factors > 0) & factors.isfinite()
    return torch.where(usable, factors, 1.0).float()


def _before(layer: Any, rounding: Blended) -> Tensor:
    """(out, in) float32 or wider: a layer's weight as it comes to be rounded."""
    weight = trained_weight(layer)
    for change in held_by(layer):
        if change is rounding:
            break
        weight = change(weight)
    wide = weight if weight.dtype == torch.float64 else weight.float()
    return wide.T if lies_on_its_side(layer) else wide
