"""Rounded weights as whole numbers and scales, found from the weights alone."""

from __future__ import annotations

import torch
from torch import Tensor

_ULPS = 2
"""Neighbours of a scale that are tried: dividing by a step rounds once more."""


def codes_of(weight: Tensor, bits: int, group: int = 0) -> tuple[Tensor, Tensor] | None:
    """Write a matrix as whole numbers times scales, where that is the very matrix.

    Every scale of which each number of a group is a multiple within the range says the
    same; the largest number is so many steps, and each count of steps is tried, from
    the most, where scales follow the largest weight, downwards.

    Args:
        weight: (out, in) float32.
        bits: of a whole number, 2 to 8.
        group: inputs that share a scale, a divisor of ``in``; 0: all of them.

    Returns:
        (out, in) int8 in ``[-2^(b-1), 2^(b-1) - 1]`` and (out, in / group) float32
        scales, whose products in float32 are the weights bit for bit; None where a
        group lies on no such grid.
    """
    rows = weight.detach().float().reshape(-1, group or weight.shape[1])
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    largest = rows.abs().amax(1)
    codes = torch.zeros(rows.shape, dtype=torch.int8, device=rows.device)
    scales = torch.ones_like(largest)
    left = (largest > 0).nonzero().flatten()
    for steps in [*range(high, 0, -1), -low]:
        for ulp in sorted(range(-_ULPS, _ULPS + 1), key=abs):
            if not len(left):
                break
            scale = _moved(largest[left] / steps, ulp)
            whole = (rows[left] / scale[:, None]).round_()
            fits = (whole >= low) & (whole <= high)
            fits &= whole * scale[:, None] == rows[left]
            exact = fits.all(1)
            scales[left[exact]] = scale[exact]
            codes[left[exact]] = whole[exact].to(torch.int8)
            left = left[~exact]
    if len(left):
        return None
    return codes.view(weight.shape), scales.view(len(weight), -1)


def _moved(scale: Tensor, ulps: int) -> Tensor:
    """A scale's neighbour so many float32 numbers away."""
    end = torch.full_like(scale, torch.inf if ulps > 0 else 0.0)
    for _ in range(abs(ulps)):
        scale = torch.nextafter(scale, end)
    return scale
