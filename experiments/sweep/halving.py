"""Successive halving: many trials a little way, the better ones on from there.

Every trial is trained as if to its end (its learning rate falls towards that), and
paused at each rung with a checkpoint. Of the trials of a rung one in ``reduction`` goes
on from where it stands; nothing is trained twice.

Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and
hyperparameter optimization" (2016), in whole rungs: workers wait for each other, so
that which trials go on does not depend on who was quicker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from align.errors import InputError
from experiments.config.tree import PhaseConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rungs:
    """Where trials are compared."""

    steps: tuple[int, ...]
    """Optimiser steps, rising, all fewer than a trial has."""
    whole: int
    """Steps of a trial that goes to its end."""
    reduction: int


def rungs_of(
    phases: Sequence[Sequence[PhaseConfig]], min_steps: int | None, reduction: int
) -> Rungs:
    """Lay the rungs.

    Args:
        phases: of every trial.
        min_steps: of the first rung; None: so that there are two.
        reduction: at least 2; each rung has so many times the steps of the last.

    Raises:
        InputError: trials differ in phases or steps, have several phases or no number
            of steps, or too few of them.
    """
    if reduction < 2:
        raise InputError(f"--reduction is {reduction}; give 2 or more")
    if any(len(of_trial) != 1 for of_trial in phases):
        raise InputError(
            "--search halving pauses trials within one phase, but a trial has "
            f"{max(map(len, phases))} phases; set phases to one, or take another search"
        )
    steps = {of_trial[0].train.steps for of_trial in phases}
    if len(steps) > 1 or None in steps:
        raise InputError(
            "--search halving compares trials at equal steps; set train.steps to one "
            "number for all of them, and leave train.num_epochs alone"
        )
    whole = next(iter(steps)) or 0
    first = max(1, whole // reduction**2) if min_steps is None else min_steps
    if not 0 < first < whole:
        raise InputError(
            f"--min-steps is {first}, but a trial has {whole} steps; give fewer"
        )
    rungs = [first]
    while rungs[-1] * reduction < whole:
        rungs.append(rungs[-1] * reduction)
    return Rungs(tuple(rungs), whole, reduction)


def survivors(values: Mapping[T, float | None], reduction: int, lower: bool) -> list[T]:
    """Who goes on to the next rung: the best one in ``reduction``, but one at least.

    Args:
        values: by trial its number; None where it has none, which is not compared.
        reduction: see :class:`Rungs`.
        lower: whether less is better.

    Returns:
        Those that go on, best first; of equals the earlier.
    """
    known = {key: value for key, value in values.items() if value is not None}
    sign = 1 if lower else -1
    ranked = sorted(known, key=lambda key: sign * known[key])
    return ranked[: max(1, len(values) // reduction)]
