"""What a balancer is, and all that it reads; each is a plugin of one kind.

Whatever a balancer wants to know of gradients is in their inner products: norms are the
roots of the diagonal, and a step along any mixture of gradients is the step of the loss
that mixes the terms alike. So it answers with one weight a term and never holds a
gradient, however large the model.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from align.errors import InputError

GRADIENTS = "gradients"
"""The inner products of the terms' gradients, as something that a balancer needs."""
NEXT_TOKEN = "next_token"
"""A next-token loss among the terms, as such."""
BALANCER_NEEDS = frozenset({GRADIENTS, NEXT_TOKEN})
"""All that a balancer may say it needs."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Standing:
    """How the N terms of a loss stand in one forward pass, over all processes."""

    names: tuple[str, ...]
    """Of the terms, as the config calls them."""
    weights: Tensor
    """(N,) float64 >= 0, the config's weights at this step, on the CPU."""
    losses: Tensor
    """(N,) float64 on the CPU: every term before its weight, summed over processes; of
    several passes a step, each term's part of the step's mean."""
    gram: Tensor | None = None
    """(N, N) float64 on the CPU: inner products of the terms' gradients before their
    weights, to the student's keys, values, attention and last hidden states, summed
    over processes; None unless the balancer needs ``gradients``."""
    next_token: int | None = None
    """Which term is the next-token loss; None where none is."""
    step: int = 0
    """Optimiser steps taken in this phase."""
    seed: int = 0
    """Of the phase, for what is drawn; alike in all processes."""
    compared: Tensor | None = None
    """(N,) bool on the CPU: terms that find a place to compare in the optimiser step,
    in whichever of its passes; None: this pass is all there is."""

    @property
    def present(self) -> Tensor:
        """(N,) bool: terms that weigh something and have something to say in the
        step."""
        if self.compared is None:
            return self.active
        return (self.weights > 0) & self.compared

    @property
    def active(self) -> Tensor:
        """(N,) bool: terms that weigh something and have something to say in this pass.
        A term that finds no place to compare is 0 and has no gradient."""
        active = (self.weights > 0) & (self.losses != 0)
        return active if self.gram is None else active & (self.gram.diagonal() > 0)

    @property
    def norms(self) -> Tensor:
        """(N,) float64, of the terms' gradients before their weights."""
        assert self.gram is not None, "a balancer that needs gradients says so"
        return self.gram.diagonal().clamp_min(0).sqrt()


@dataclass(frozen=True, kw_only=True, eq=False)  # without slots, as StepResult
class Balanced:
    """What a balancer makes of it."""

    weights: Tensor
    """(N,) >= 0, what every term is multiplied with in place of the config's weight;
    with a gradient where the terms' sizes are what it learns from."""
    loss: Tensor | None = None
    """Scalar, what is minimised beside the terms to train the balancer itself; it moves
    nothing else."""


Balancer = Callable[[Standing], Balanced]
"""A module where it learns or remembers something. It may have ``needs``, a frozenset
of any of ``gradients`` and ``next_token``."""


def balancer_needs(balancer: Any) -> frozenset[str]:
    """What a balancer, or its factory, says that it needs.

    Raises:
        InputError: something that nobody can give it.
    """
    asked: Any = getattr(balancer, "needs", frozenset())
    if not isinstance(asked, Set) or not asked <= BALANCER_NEEDS:
        raise InputError(
            f"a balancer needs {asked!r}; give a frozenset of any of "
            f"{', '.join(sorted(BALANCER_NEEDS))}"
        )
    return frozenset(asked)


def over(left: Tensor, right: Tensor) -> Tensor:
    """A quotient that is 1 where there is nothing to divide by."""
    return torch.where(right > 0, left / right.clamp_min(1e-300), 1.0)
