"""What stands between the terms and their sum: a balancer, and what it is told.

Of one forward pass exactly: losses and inner products are summed over processes before
the balancer sees them, so all processes weigh alike, and a pass that two of them share
is weighed as if one had read it. Of several passes a step each is weighed by itself,
since its gradients are gone before the next is read; the ``uncertainty`` alone is exact
over the step, as what it learns from adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from align.views import Captured
from student.balance.balancer import (
    GRADIENTS,
    Balancer,
    Standing,
    balancer_needs,
)
from student.balance.gradients import gram_of, parted, sources_of

Sum = Callable[[Sequence[float]], list[float]]
"""Adds up numbers over processes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Weighing:
    """By what the terms of one pass are multiplied."""

    factors: Mapping[str, float | Tensor]
    """By name; a tensor where the balancer learns from the terms' sizes."""
    loss: Tensor | None
    """Of the balancer's own, to be added by the pass's share of its step."""

    @property
    def logged(self) -> dict[str, float]:
        """The factors as numbers."""
        return {
            name: float(factor.detach() if isinstance(factor, Tensor) else factor)
            for name, factor in self.factors.items()
        }


class Balance(nn.Module):
    """The terms of one phase and the balancer that weighs them."""

    def __init__(
        self, balancer: Balancer, names: Sequence[str], next_token: str | None = None
    ) -> None:
        """Join them.

        Args:
            balancer: built for these terms.
            names: of the terms, in order.
            next_token: which of them is the next-token loss.

        Raises:
            InputError: the balancer needs what nobody can give it.
        """
        super().__init__()
        self.balancer = balancer
        self._names = tuple(names)
        self._next_token = None if next_token is None else names.index(next_token)
        self.reads_gradients = GRADIENTS in balancer_needs(balancer)
        """Whether gradients of the terms are looked at."""

    def part(self, captured: Captured) -> Captured:
        """A capture at whose tensors the terms' gradients can be told apart."""
        return parted(captured) if self.reads_gradients else captured

    def weigh(
        self,
        values: Mapping[str, Tensor],
        weights: Mapping[str, float],
        captured: Captured,
        *,
        step: int,
        seed: int = 0,
        total: Sum = list,
        compared: Mapping[str, bool] | None = None,
    ) -> Weighing:
        """Ask the balancer.

        Args:
            values: of the terms by name, scalars with their graph, which is kept.
            weights: the config's by name, at this step.
            captured: see :meth:`part`; the terms were computed from it.
            step: optimiser steps taken in this phase.
            seed: of the phase, for what a balancer draws.
            total: over processes; every process calls it equally often.
            compared: of terms that count their places, whether there is any in the
                step; of others their value in this pass says so.

        Returns:
            The config's weights where something is not finite: such a step is left out.
        """
        scalars = [values[name] for name in self._names]
        size = len(scalars)
        numbers = torch.stack([value.detach().double() for value in scalars])
        if self.reads_gradients:
            gram = gram_of(scalars, sources_of(captured))
            numbers = torch.cat([numbers, gram.flatten().to(numbers.device)])
        known = torch.tensor(total(numbers.tolist()), dtype=torch.float64)
        by_config = {name: float(weights[name]) for name in self._names}
        if not bool(known.isfinite().all()):
            return Weighing(factors=by_config, loss=None)
        met = dict(zip(self._names, (known[:size] != 0).tolist(), strict=True))
        met |= {n: there for n, there in (compared or {}).items() if n in met}
        standing = Standing(
            names=self._names,
            weights=torch.tensor(list(by_config.values()), dtype=torch.float64),
            losses=known[:size],
            gram=known[size:].view(size, size) if self.reads_gradients else None,
            next_token=self._next_token,
            step=step,
            seed=seed,
            compared=torch.tensor(list(met.values())),
        )
        balanced = self.balancer(standing)
        learned = balanced.weights.requires_grad
        factors: Sequence[float | Tensor] = (
            balanced.weights.unbind() if learned else balanced.weights.tolist()
        )
        return Weighing(
            factors=dict(zip(self._names, factors, strict=True)), loss=balanced.loss
        )
