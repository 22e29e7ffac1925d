"""How much texts of each domain count, by how the student does there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from align.schedules.losses import MEMORY
from student.balance.waiting import DomainSums, Sum

DomainSignal = Literal["progress", "loss", "gradient", "mmd"]
"""What makes a domain hard; the last two are :class:`student.balance.DomainVectors`."""


def weights_by(left: Tensor, known: Tensor, alpha: float) -> Tensor:
    """(D,) float64: ``left^alpha`` over its mean over those that are known, 1 of the
    others, and of all where all that is known is 0."""
    if not bool((left[known] > 0).any()):
        return torch.ones_like(left)
    powers = (torch.where(known, left, 1.0) / left[known].mean()) ** alpha
    return torch.where(known, powers / powers[known].mean(), 1.0)


class DomainBalance(DomainSums):
    """Weights of domains that follow the student's next-token loss in each of them.

    A domain weighs ``r^alpha`` over the mean of that over domains. Of ``progress``, r
    is what is left of the domain's loss as a share of its first size: what has been
    learned less counts more. Of ``loss``, r is the loss itself.

    Its buffers are part of a checkpoint. Losses of a step count from the next one on,
    summed over passes and processes, so a domain has one weight a step.

    Source:
        The relative rate r^alpha of GradNorm, Chen et al. 2018 (arXiv 1711.02257),
        whose tasks are domains here. Departures: it weighs losses at once, where
        GradNorm has gradients aim at it; losses are moving means of ten steps or so.
    """

    first: Tensor
    mean: Tensor

    def __init__(
        self,
        domains: Sequence[str],
        signal: Literal["progress", "loss"] = "progress",
    ) -> None:
        """Know nothing yet of these domains.

        Args:
            domains: of all texts that are learned from, alike on all processes.
            signal: see above.
        """
        super().__init__(domains)
        self._signal, size = signal, len(self.names)
        for name in ("first", "mean"):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))
        self._wait_in(2, size)

    @torch.no_grad()
    def weights(self, alpha: float, step: int) -> Tensor:
        """(D,) float64 on the CPU, whose mean over the domains that are known is 1.

        Args:
            alpha: how strongly they differ; 0: not at all.
            step: optimiser steps taken in this phase.

        Returns:
            1 of a domain of which nothing is known.
        """
        left = self.difficulty(step)
        return weights_by(left, ~left.isnan(), alpha)

    @torch.no_grad()
    def difficulty(self, step: int) -> Tensor:
        """(D,) float64 on the CPU, r before a step; NaN of a domain of which nothing is
        known."""
        first, mean = self.first.cpu(), self._mean_before(step).cpu()
        known = (first if self._signal == "progress" else mean) > 0
        left = mean / first if self._signal == "progress" else mean
        return torch.where(known, left, torch.nan)

    @torch.no_grad()
    def note(
        self,
        losses: Tensor,
        counts: Tensor,
        domains: Sequence[str],
        *,
        step: int,
        total: Sum = list,
    ) -> None:
        """Take note of one pass.

        Args:
            losses: (B,) float, the sum over each text's predicted tokens, nats.
            counts: (B,), how many they are.
            domains: of the texts.
            step: optimiser steps taken before it.
            total: over processes, which must all come here.
        """
        rows = torch.stack([losses.double(), counts.double()], 1)
        self._add(self._summed(rows, domains).T, step, total)

    def _take_in(self, step: int) -> None:
        mean = self._mean_before(step)
        self.first.copy_(torch.where(self.first == 0, mean, self.first))
        self.mean.copy_(mean)

    def _mean_before(self, step: int) -> Tensor:
        """(D,) with what waits from an earlier step."""
        if not self._waits(step):
            return self.mean
        sums, counts = self.waiting
        new = sums / counts.clamp_min(1)
        moved = torch.where(
            self.mean == 0, new, MEMORY * self.mean + (1 - MEMORY) * new
        )
        return torch.where(counts > 0, moved, self.mean)
