"""Compare how features swing along a text, whenever they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from student.match.distance import by_known


@dataclass(frozen=True, kw_only=True, slots=True)
class Spectrum:
    """Squared difference of two amplitudes, a mean over frequencies and channels.

    Frequencies are those along the tokens of a text that have weight; every one of them
    costs what its text costs. A text that is turned round in a circle costs nothing.

    Source:
        The discrete Fourier transform. A recipe in use takes the squared distance of
        the transforms themselves, which is the plain squared distance by Parseval's
        theorem; here phases are left out, and what is left is at most that distance.
    """

    per_token: ClassVar[bool] = True
    equal_widths: ClassVar[bool] = True

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`student.match.distance.Distance.__call__`."""
        return by_known(_apart, pred, target, weight)


def _apart(pred: Tensor, target: Tensor, known: Tensor) -> Tensor:
    costs = []
    for b, real in enumerate(known):
        if not bool(real.any()):
            # 0 with a gradient: a process that compares nothing reaches the same
            # parameters as the others, those of the projector among them.
            costs.append(pred[:, b, :0].sum((1, 2)))
            continue
        sides = (side[:, b, real] for side in (pred, target))
        ours, theirs = (torch.fft.fft(x, dim=1, norm="ortho").abs() for x in sides)
        costs.append((ours - theirs).square().mean((1, 2)))
    each = torch.stack(costs, 1)  # (L, B)
    return each[..., None] * known
