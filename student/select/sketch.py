"""How numbers of many places are distributed, in a few counts that add up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from align.schedules.losses import MEMORY

Sum = Callable[[Sequence[float]], list[float]]

ACCURACY = 0.01
"""By what share of itself a percentile may be off."""
LEAST, GREATEST = 1e-3, 1e3
"""Numbers nearer to 0 count as 0, and those beyond as the last."""
_GROWTH = math.log((1 + ACCURACY) / (1 - ACCURACY))
_LOW = math.ceil(math.log(LEAST) / _GROWTH)
_EACH = math.ceil(math.log(GREATEST) / _GROWTH) - _LOW + 1
"""Buckets of one sign."""
BUCKETS = 2 * _EACH + 1


class RunningSketch(nn.Module):
    """Percentiles, means and deviations of the last steps, group by group.

    Counts are whole numbers before they fade, so that their sum is the same however the
    places of a step are cut into passes, and on every process. A step counts from the
    next one on: all its passes are asked by the same numbers. Buffers are part of a
    checkpoint.

    Source:
        The buckets of DDSketch, Masson, Rim and Lee 2019 (arXiv 1908.10693), of which
        each holds numbers within ``ACCURACY`` of its own. Departures: their number is
        fixed, and what was counted fades by ``MEMORY`` a step, to some ten steps.
    """

    counts: Tensor
    waiting: Tensor
    waiting_step: Tensor

    def __init__(self, groups: int) -> None:
        """Know nothing yet of so many groups."""
        super().__init__()
        for name in ("counts", "waiting"):
            empty = torch.zeros(groups, BUCKETS, dtype=torch.float64)
            self.register_buffer(name, empty)
        self.register_buffer("waiting_step", torch.tensor(-1))

    @torch.no_grad()
    def note(self, values: Tensor, group: Tensor, *, step: int, total: Sum) -> None:
        """Take note of one pass.

        Args:
            values: (N,) float; what is not finite is left out.
            group: (N,) int64, whose they are.
            step: optimiser steps taken before it.
            total: over processes, which must all come here.
        """
        counted = values.isfinite()
        at = group[counted] * BUCKETS + bucket_of(values[counted])
        counts = torch.bincount(at.cpu(), minlength=self.counts.numel())
        every = torch.tensor(total(counts.double().tolist()), dtype=torch.float64)
        if int(self.waiting_step) != step:
            self.counts.copy_(self._before(step))
            self.waiting.zero_()
            self.waiting_step.fill_(step)
        self.waiting += every.view(self.waiting.shape).to(self.waiting)

    @torch.no_grad()
    def quantile(self, share: float, step: int) -> Tensor:
        """(G,) float64 on the CPU: the least number that so large a share of a group's
        does not exceed, within ``ACCURACY`` of itself; NaN of a group without any.

        Args:
            share: in [0, 1].
            step: optimiser steps taken in this phase.
        """
        counts = self._before(step).cpu()
        total = counts.sum(1)
        reached = counts.cumsum(1) >= (share * total)[:, None] * (1 - 1e-12)
        reached &= counts > 0
        at = reached.int().argmax(1)
        return torch.where(total > 0, _numbers()[at], torch.nan)

    @torch.no_grad()
    def moments(self, step: int) -> tuple[Tensor, Tensor]:
        """(G,) float64 each on the CPU: mean and standard deviation, of numbers as
        their buckets say them; NaN of a group without any."""
        counts, numbers = self._before(step).cpu(), _numbers()
        shares = counts / counts.sum(1, keepdim=True)  # 0 / 0 is NaN
        mean = shares @ numbers
        return mean, ((numbers - mean[:, None]).square() * shares).sum(1).sqrt()

    def _before(self, step: int) -> Tensor:
        """(G, K) float64, with what waits from an earlier step."""
        if not 0 <= int(self.waiting_step) < step:
            return self.counts
        return MEMORY * self.counts + self.waiting


def bucket_of(values: Tensor) -> Tensor:
    """(N,) int64 in [0, BUCKETS), ascending with the finite numbers (N,)."""
    size = values.detach().double().abs()
    exponent = (size.clamp(LEAST, GREATEST).log() / _GROWTH).ceil().long() - _LOW
    exponent = exponent.clamp(0, _EACH - 1)
    signed = torch.where(values > 0, _EACH + 1 + exponent, _EACH - 1 - exponent)
    return torch.where(size < LEAST, _EACH, signed)


def _numbers() -> Tensor:
    """(K,) float64, what each bucket stands for."""
    above = torch.arange(_EACH, dtype=torch.float64) + _LOW
    growth = math.exp(_GROWTH)
    size = 2 * (above * _GROWTH).exp() / (growth + 1)
    return torch.cat([-size.flip(0), size.new_zeros(1), size])
