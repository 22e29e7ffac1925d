"""What became of the terms' losses since a phase began, for schedules that go by it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MEMORY = 0.9
"""Share of the mean so far in the next one: of ten steps or so."""


class LossRecord(nn.Module):
    """The first loss of every term that is not 0, and a moving mean from there on.

    A term that has cost nothing so far compared nothing, or there is nothing to lose a
    share of: it has not been seen.

    Its buffers are part of a checkpoint, so a run that goes on knows what it knew.
    Losses of a step count from the next one on, however many passes and processes
    share it, so a number that moves by them is one number a step.
    """

    first: Tensor
    mean: Tensor
    waiting: Tensor
    waiting_step: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        """Know nothing yet of these terms."""
        super().__init__()
        self._names = tuple(names)
        for name in ("first", "mean", "waiting"):
            empty = torch.zeros(len(self._names), dtype=torch.float64)
            self.register_buffer(name, empty)
        self.register_buffer("waiting_step", torch.tensor(-1))

    @torch.no_grad()
    def note(self, losses: Sequence[float], step: int) -> None:
        """Take note of one pass.

        Args:
            losses: N, every term's part of the step's mean, over all processes; of a
                pass with one that is not finite nothing is noted.
            step: optimiser steps taken before it.
        """
        pass_losses = torch.tensor(losses, dtype=torch.float64)
        if not bool(pass_losses.isfinite().all()):
            return
        if int(self.waiting_step) != step:
            mean = self._mean_before(step)
            self.first.copy_(torch.where(self.first == 0, mean, self.first))
            self.mean.copy_(mean)
            self.waiting.zero_()
            self.waiting_step.fill_(step)
        self.waiting.add_(pass_losses.to(self.waiting))

    @torch.no_grad()
    def kept(self, term: str, step: int) -> float:
        """What is left of a term's loss before a step, as a share of its first size.

        Returns:
            >= 0; 1 before there are two losses of the term, and of a term that this
            arm of a run does not have.
        """
        if term not in self._names:
            return 1.0
        index = self._names.index(term)
        first, mean = float(self.first[index]), float(self._mean_before(step)[index])
        return max(0.0, mean / first) if first else 1.0

    @torch.no_grad()
    def mean_of(self, term: str, step: int) -> float:
        """The moving mean of a term's loss before a step; 0 before there is one."""
        return float(self._mean_before(step)[self._names.index(term)])

    @property
    def _met(self) -> Tensor:
        """(N,) or () bool, what has a mean already."""
        return self.first != 0

    def _mean_before(self, step: int) -> Tensor:
        """(N,) float64, with what waits from an earlier step."""
        if not 0 <= int(self.waiting_step) < step:
            return self.mean
        moved = MEMORY * self.mean + (1 - MEMORY) * self.waiting
        return torch.where(self._met, moved, self.waiting)
