"""What a selector is, and all that it reads; each is a plugin of one kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from align.schedules import Setting, Timetable
from fuse.signals import Signals, check_signals

Sum = Callable[[Sequence[float]], list[float]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidates:
    """The places of one forward pass among which a selector chooses.

    Place (b, t) is where the student has read token t and predicts the next one: keys
    and values of token t are compared there, and what is said of token t + 1.
    """

    signals: Signals
    """Filled with what the selector needs."""
    known: Tensor
    """(B, T, M) bool: where teacher m has something to say of token t, off padding and
    attention sinks. What is not known weighs nothing, whatever a selector says."""
    step: int = 0
    """Optimiser steps taken in this phase."""
    over_processes: Sum = list
    """Adds up numbers of this pass over all processes, which must all ask."""
    timetable: Timetable = field(default_factory=Timetable)
    """What settings are at a step."""
    place: str = "loss.select"
    """Where the options of the selector that reads it stand."""

    def number(self, setting: Setting, option: str) -> float:
        """What an option of the selector that reads it is at this step."""
        return self.timetable.value(setting, f"{self.place}.{option}", self.step)

    def domain_of_text(self, domains: Sequence[str]) -> Tensor:
        """(B,) int64 on the CPU, the number of each text's domain among ``domains``;
        of one that is not among them 0, and so of all unless it needs ``domain``."""
        at = {name: number for number, name in enumerate(domains)}
        names = self.signals.domains or [""] * len(self.known)
        return torch.tensor([at.get(name, 0) for name in names])


class Selector(Protocol):
    """Says how much each place counts; a module where it remembers something.

    Its ``needs`` are of :data:`fuse.signals.SIGNALS`. It may have a method ``note``
    that takes the candidates of a pass of training, and remembers in buffers what it
    asks of later steps: all passes of a step are weighed by the same numbers.
    """

    @property
    def needs(self) -> frozenset[str]:
        """What it is told."""

    def __call__(self, candidates: Candidates) -> Tensor:
        """(B, T), or (B, T, M) by teacher: finite floats >= 0, 1 for as without it.

        Means are over what places weigh, so twice the weight everywhere changes
        nothing. A signal that nobody knows is NaN: such a place is usually left at 1.
        """


def selector_needs(selector: Any) -> frozenset[str]:
    """What a selector says that it needs.

    Raises:
        InputError: something that nobody can give it.
    """
    name = getattr(selector, "__name__", type(selector).__name__)
    needs: Any = getattr(selector, "needs", frozenset())
    return check_signals(f"selector {name!r}", needs)
