"""The best student of a phase so far, and when nothing better comes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_STATE = "watch"
_BEST, _STEP, _WORSE = range(3)


class Best:
    """What evaluations within a phase have found, as tensors that a checkpoint keeps.

    A value that is no number is worse than any, and so is the first one's rival.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lower: bool,
        keep: bool = False,
        patience: int | None = None,
    ) -> None:
        """Begin without a best one.

        Args:
            model: what is measured.
            lower: whether lower is better.
            keep: hold the best one's weights, on the CPU.
            patience: evaluations in a row without a better one after which the phase
                ends; None: it never does.
        """
        self._model, self._lower, self._patience = model, lower, patience
        self._state = torch.tensor([math.nan, 0.0, 0.0], dtype=torch.float64)
        self._weights = (
            {n: x.detach().cpu().clone() for n, x in _all(model)} if keep else {}
        )

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All that it remembers, by name."""
        return {_STATE: self._state} | {
            f"best/{n}": x for n, x in self._weights.items()
        }

    @property
    def step(self) -> int | None:
        """Optimiser steps behind the best one; None before the first evaluation."""
        return int(self._state[_STEP]) or None

    @property
    def value(self) -> float:
        """The best one's number."""
        return float(self._state[_BEST])

    @property
    def stopped(self) -> bool:
        """Whether patience is at its end."""
        return self._patience is not None and int(self._state[_WORSE]) >= self._patience

    @torch.no_grad()
    def see(self, value: float, step: int) -> bool:
        """Take an evaluation after so many steps.

        Returns:
            Whether it is the best so far.
        """
        best = self.value
        better = value < best if self._lower else value > best
        if not better and not (self.step is None or math.isnan(best)):
            self._state[_WORSE] += 1
            return False
        self._state.copy_(torch.tensor([value, step, 0.0], dtype=torch.float64))
        for name, tensor in _all(self._model) if self._weights else ():
            self._weights[name].copy_(tensor)
        return True

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best one's weights back into the model."""
        if self.step is None:
            return
        for name, tensor in _all(self._model) if self._weights else ():
            tensor.copy_(self._weights[name])


def _all(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Each tensor once, though two names may share it."""
    return [*model.named_parameters(), *model.named_buffers()]
