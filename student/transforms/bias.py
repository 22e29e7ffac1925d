"""What rounding moves a layer's output by on the average, taken from its bias."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from align.errors import InputError
from align.support.matrices import lies_on_its_side, trained_weight
from align.tokens.batch import TokenBatch
from student.transforms.inputs import read_inputs


class Shifted(nn.Module):
    """A bias less a shift; itself until there is one."""

    shift: Tensor

    def __init__(self, bias: Tensor) -> None:
        """Begin without a shift."""
        super().__init__()
        self.register_buffer("shift", torch.zeros_like(bias))
        self.shifted = False

    def forward(self, bias: Tensor) -> Tensor:
        """(out,) as it is computed by."""
        return bias - self.shift if self.shifted else bias


def attach_shifts(layers: Iterable[Any]) -> list[Any]:
    """Put a shift on every layer's bias that has one.

    Returns:
        These layers.

    Raises:
        InputError: none has.
    """
    biased = [layer for layer in layers if getattr(layer, "bias", None) is not None]
    if not biased:
        raise InputError(
            "correct_bias is true, and no layer that is rounded has a bias; set "
            "correct_bias=false"
        )
    for layer in biased:
        shifted = Shifted(layer.bias.detach())
        parametrize.register_parametrization(layer, "bias", shifted, unsafe=True)
    return biased


@torch.no_grad()
def correct(model: Any, layers: Iterable[Any], batches: Iterable[TokenBatch]) -> None:
    """Shift each bias by the mean error of its layer's output, on a sample.

    Inputs are those of the rounded model, over real tokens alone.

    Args:
        model: computes by rounded weights; in evaluation mode.
        layers: of :func:`attach_shifts`.
        batches: the sample.

    Source:
        Nagel et al. 2019 (arXiv 1906.04721), section 4.2, empirically: the error
        ``(Q(W) - W) E[x]``. Departure: E[x] of all layers is read at once, before any
        bias is corrected.
    """
    chosen = list(layers)
    sums: dict[Any, Tensor] = {}
    counts: dict[Any, int] = {}

    def take(layer: Any, rows: Tensor) -> None:
        sums[layer] = sums.get(layer, 0) + rows.double().sum(0)
        counts[layer] = counts.get(layer, 0) + len(rows)

    read_inputs(model, chosen, batches, take)
    for layer in chosen:
        if not counts.get(layer):
            continue  # an expert that no text chose
        error = layer.weight.double() - trained_weight(layer).double()
        error = error.T if lies_on_its_side(layer) else error
        shifted: Any = layer.parametrizations["bias"][0]
        shifted.shift.copy_(error @ (sums[layer] / counts[layer]))
        shifted.shifted = True
