"""What a phase and each of its steps bring to the terms on next-token outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from align.schedules import Timetable
from align.support.stopwatch import part
from align.views import LinearHead, Output
from student.output.across.lexicon import Lexicon
from student.output.across.pairing import Pairing
from student.output.across.signals import label_log_probs
from student.output.divergence.linear import LOGITS
from student.output.temperature import TEMPERATURES
from student.output_config import OutputConfig


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many parameters models have; 0 where nobody knows, as from a store."""

    student: int = 0
    teachers: Mapping[str, int] = field(default_factory=dict)
    """By name."""


@dataclass(frozen=True, slots=True, eq=False)
class OutputPlan:
    """What the student brings to the comparison of outputs, for a whole phase."""

    head: LinearHead
    """The student's own parameters."""
    vocabulary: str
    """Digest of the student's tokens."""
    config: OutputConfig
    _: KW_ONLY
    lexicons: Mapping[str, Lexicon] = field(default_factory=dict)
    """Of teachers by name, where an objective compares two vocabularies."""
    parameters: Parameters = field(default_factory=Parameters)
    """How many each model has."""

    def under(self, kind: str, options: Mapping[str, Any]) -> OutputPlan:
        """For one term; see :meth:`OutputConfig.under`."""
        return replace(self, config=self.config.under(kind, options))


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """One teacher's output, and how much of it is meant."""

    name: str
    output: Output
    """Detached."""
    weight: Tensor
    """(B, T_s) float32 >= 0, detached: the teacher's routing weight at the token that
    is predicted, 0 where it covers none of it and on padding."""
    pairing: Pairing | None = None
    """Of the student's tokens and the teacher's; None where nobody made it before."""


@dataclass(slots=True, eq=False)
class OwnTokens:
    """How likely the student found its own tokens in one pass, once a term has asked.

    One walk over the head serves all terms: their gradients meet in what it gave, and
    its backward makes the logits once more for their sum.
    """

    log_probs: Tensor | None = None
    """(B, T), see :func:`student.output.across.signals.label_log_probs`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outputs:
    """The student's output beside its teachers'."""

    student: Output
    """With the student's gradient."""
    teachers: Sequence[Taught]
    """Those with a next-token output."""
    config: OutputConfig
    step: int = 0
    """Optimiser steps taken in this phase."""
    lexicons: Mapping[str, Lexicon] = field(default_factory=dict)
    """See :class:`OutputPlan`."""
    timetable: Timetable = field(default_factory=partial(Timetable, rules=TEMPERATURES))
    """What settings are at a step."""
    parameters: Parameters = field(default_factory=Parameters)
    """How many each model has."""
    domains: Sequence[str] | None = None
    """Of the B texts; None: nobody knows."""
    every_domain: Sequence[str] = ()
    """Of all texts that are learned from, alike on all processes; empty: nobody
    knows."""
    over_processes: Callable[[Sequence[float]], list[float]] = list
    """Adds up numbers of this pass over all processes, which must all ask."""
    by_text: Tensor | None = None
    """(B,), see :attr:`student.objective.StepContext.by_text`."""
    by_token: Tensor | None = None
    """(B, T), see :attr:`student.objective.StepContext.by_token`."""
    place: str = ""
    """Where the term that reads these has settings of its own."""
    own: frozenset[str] = frozenset()
    """Which ones."""
    tokens: OwnTokens = field(default_factory=OwnTokens)
    """Of ``student``, for all terms of the pass."""

    def under(self, kind: str, options: Mapping[str, Any], place: str) -> Outputs:
        """For one term; see :meth:`OutputConfig.under`.

        Args:
            kind: of the term.
            options: the term's own.
            place: where these stand.
        """
        config = self.config.under(kind, options)
        return replace(self, config=config, place=place, own=frozenset(options))

    def place_of(self, setting: str) -> str:
        """Where a setting of ``config`` stands, for errors and records."""
        return f"{self.place if setting in self.own else 'output'}.{setting}"

    def number(self, setting: str) -> float:
        """A setting of ``config`` at this step."""
        value, place = getattr(self.config, setting), self.place_of(setting)
        return self.timetable.value(value, place, self.step)

    def of(self, objective: str) -> list[Taught]:
        """The teachers that an objective learns from."""
        named = self.config.teachers.get(objective)
        return [t for t in self.teachers if named is None or t.name in named]

    def log_probs(self) -> Tensor:
        """(B, T) log-probability that the student gives each of its tokens after those
        before it, 0 for the first; with the student's gradient, unless the caller has
        gradients off."""
        said = self.tokens.log_probs
        if said is None:
            block = max(self.config.block, LOGITS // self.student.head.size)
            with part("student"):  # its last layer, not a term's work
                said = label_log_probs(self.student, block)
            if torch.is_grad_enabled():  # else other terms would lose theirs
                self.tokens.log_probs = said
        return said

    def pairing(self, taught: Taught) -> Pairing:
        """Where the student and a teacher can be compared."""
        if taught.pairing is not None:
            return taught.pairing
        return Pairing(self.student.tokens, taught.output.tokens)

    def speaks_alike(self, taught: Taught) -> bool:
        """Whether a teacher has the student's vocabulary."""
        return taught.output.vocabulary == self.student.vocabulary
