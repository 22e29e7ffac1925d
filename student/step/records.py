"""What a training step is given, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from align.layer_map import LayerMap
from align.schedules import Setting
from align.sizes import Sizes
from align.tokens.batch import TokenBatch
from align.views import TeacherView
from fuse.routing_loss import EntropyRegularizer
from student.bridges.base import Bridge
from student.evaluate import KVHealth
from student.objective import ChosenLayers, Objective
from student.places import Selected, Share
from student.select.candidates import Sum


@dataclass(frozen=True, slots=True)
class WeightedObjective:
    """A term with its weight."""

    weight: Setting
    """A number, or a schedule."""
    objective: Objective
    place: str = ""
    """The setting that says the weight; by itself that of a named term."""


@dataclass(frozen=True, slots=True, eq=False)
class Teaching:
    """Everything that stands between teachers and student in one phase."""

    bridge: Bridge | None
    """Of the teachers that bring keys and values; None where no loss asks for any."""
    weigher: nn.Module
    """Maps hidden (B, T, C), mask (B, T), available (B, T, M) to weights (B, T, M) or
    (L, B, T, M)."""
    regularizer: EntropyRegularizer | None = None
    """The entropy term; None where no router learns."""
    maps: Mapping[str, LayerMap] = field(default_factory=dict)
    """By teacher, of those that bring attention and that the bridge does not know."""
    _: KW_ONLY
    temperature: Setting | None = None
    """``fuse.temperature``, where it moves."""

    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    """By teacher, of those that the bridge does not know."""

    @property
    def all_sizes(self) -> Mapping[str, Sizes]:
        """By teacher, those of the bridge's and the others."""
        met = () if self.bridge is None else self.bridge.teachers
        return {**self.sizes, **{teacher.name: teacher.sizes for teacher in met}}

    @property
    def layer_maps(self) -> Mapping[str, LayerMap]:
        """By teacher, the bridge's and the others."""
        met = () if self.bridge is None else self.bridge.teachers
        return {**self.maps, **{teacher.name: teacher.layer_map for teacher in met}}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PassInputs:
    """What one forward pass of training is of; see ``Distiller.forward``."""

    batch: TokenBatch
    """The student's tokens, (B, T)."""
    views: Sequence[TeacherView] = ()
    """One per teacher, in the bridge's order; empty without teaching."""
    rows: Tensor | None = None
    """(B, R) int64 query positions, where a term compares some."""
    step: int = 0
    """Optimiser steps taken in this phase."""
    share: Share | None = None
    """What the batch is of its optimiser step; None: the batch is all there is."""
    domains: Sequence[str] | None = None
    """Of the B texts; None: nobody knows."""
    numbers: Sequence[int] | None = None
    """Of the texts in the run; None: from 0."""

    @property
    def over_processes(self) -> Sum:
        """Adds up numbers of this pass over all processes, which must all ask."""
        return list if self.share is None else self.share.over_processes


@dataclass(
    frozen=True, kw_only=True, eq=False
)  # without slots: ZeRO 3 looks for tensors by vars()
class StepResult:
    """What one forward pass of training gives."""

    loss: Tensor
    """Scalar to differentiate: the pass's mean, or its share of the step's, of which
    the shares of all passes are the sum."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """Every term before its weight, likewise, detached scalars."""
    routing: Tensor | None = None
    """(B, T, M) or (L, B, T, M) float32, detached; rows of 0 have no teacher."""
    soft: Tensor | None = None
    """As ``routing``, before anybody was chosen; None: as ``routing``."""
    teachers: tuple[str, ...] = ()
    """M names."""
    coverage: Tensor | None = None
    """(M,) float32, the share that each teacher covered of the text tokens that it was
    asked about; NaN where it was asked about no text."""
    health: KVHealth | None = None
    """Of the student's keys and values before this step, where it was asked for."""
    weights: dict[str, float] = field(default_factory=dict)
    """By what every term was multiplied, where a balancer says so."""
    selected: Selected | None = None
    """By what selectors multiplied the places of the pass; None where none did."""
    chosen: dict[str, ChosenLayers] = field(default_factory=dict)
    """By term, of those that read other layers from step to step."""


def sums_of(results: Sequence[StepResult]) -> list[float]:
    """The loss of a step on this process, and each of its terms in order."""
    names = list(results[0].terms)
    shares = [[r.loss.detach(), *(r.terms[name] for name in names)] for r in results]
    every = torch.stack([torch.stack([x.double() for x in share]) for share in shares])
    return every.sum(0).tolist()


def layers_of(results: Sequence[StepResult]) -> dict[str, Any]:
    """Which layers terms read in a step, and how much each counted, by term; and by
    what a balancer multiplied every term.

    Layers are alike in all passes in which a term read any; those of this process.
    """
    every = {name: chosen for r in results for name, chosen in r.chosen.items()}
    read = {n: list(c.layers) for n, c in every.items() if c.layers is not None}
    weights = {n: c.weights.tolist() for n, c in every.items() if c.weights is not None}
    factors = {
        name: sum(r.weights[name] for r in results) / len(results)
        for name in results[-1].weights
    }
    named = {"layers": read, "layer_weights": weights, "balance": factors}
    return {key: by_term for key, by_term in named.items() if by_term}
