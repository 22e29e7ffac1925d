"""What is known of domains: sums of a step wait, and count from the next one on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Sum = Callable[[Sequence[float]], list[float]]
"""Adds up numbers over processes."""


class DomainSums(nn.Module, ABC):
    """Sums over the passes of a step, by domain, beside what earlier steps came to.

    Its buffers are part of a checkpoint; those of a subclass stand before them.
    """

    waiting: Tensor
    waiting_step: Tensor

    def __init__(self, domains: Sequence[str]) -> None:
        """Take the names of domains, alike on all processes."""
        super().__init__()
        self.names = tuple(domains)

    def of_texts(self, domains: Sequence[str], weights: Tensor) -> Tensor:
        """What the domain of each text weighs.

        Args:
            domains: B names.
            weights: (D,).

        Returns:
            (B,) float32 on the CPU; 1 of a text of another domain.
        """
        by_name = dict(zip(self.names, weights.tolist(), strict=True))
        return torch.tensor([by_name.get(domain, 1.0) for domain in domains])

    @abstractmethod
    def _take_in(self, step: int) -> None:
        """Have what waits from before a step count among what earlier steps came to."""

    def _wait_in(self, *shape: int) -> None:
        """Make the buffers, of sums of this shape, last of all."""
        self.register_buffer("waiting", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("waiting_step", torch.tensor(-1))

    def _waits(self, step: int) -> bool:
        """Whether sums wait from before a step."""
        return 0 <= int(self.waiting_step) < step

    def _summed(self, rows: Tensor, domains: Sequence[str]) -> Tensor:
        """(B, N) of texts -> (D, N) float64 on the CPU, of their domains."""
        rows = rows.double().cpu()
        sums = rows.new_zeros(len(self.names), rows.shape[1])
        for domain, row in zip(domains, rows, strict=True):
            if domain in self.names:
                sums[self.names.index(domain)] += row
        return sums

    def _add(self, sums: Tensor, step: int, total: Sum) -> None:
        """Add those of one pass to what waits; not where one of them is not finite.

        Args:
            sums: of the shape of ``waiting``.
            step: optimiser steps taken before the pass.
            total: over processes, which must all come here.
        """
        every = torch.tensor(total(sums.flatten().tolist()), dtype=torch.float64)
        if not bool(every.isfinite().all()):
            return
        if int(self.waiting_step) != step:
            self._take_in(step)
            self.waiting.zero_()
            self.waiting_step.fill_(step)
        self.waiting += every.view(self.waiting.shape).to(self.waiting)
