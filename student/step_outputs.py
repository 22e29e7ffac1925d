"""What a phase and each of its steps bring to the terms on next-token outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from torch import Tensor

from align.views import LinearHead, Output
from student.output.across.lexicon import Lexicon
from student.output.across.pairing import Pairing
from student.output.temperature import TEMPERATURES, Temperature, constant
from student.output_config import OutputConfig


@dataclass(frozen=True, slots=True, eq=False)
class OutputPlan:
    """What the student brings to the comparison of outputs, for a whole phase."""

    head: LinearHead
    """The student's own parameters."""
    vocabulary: str
    """Digest of the student's tokens."""
    config: OutputConfig
    _: KW_ONLY
    temperature: Temperature = constant
    """The rule of ``config.temperature_rule``."""
    lexicons: Mapping[str, Lexicon] = field(default_factory=dict)
    """Of teachers by name, where an objective compares two vocabularies."""
    rules: Mapping[str, Temperature] = field(default_factory=lambda: TEMPERATURES)
    """All that a term may name as its own, by name."""

    def under(self, kind: str, options: Mapping[str, Any]) -> OutputPlan:
        """For one term; see :meth:`OutputConfig.under`."""
        config = self.config.under(kind, options)
        return replace(self, config=config, temperature=_rule(self, config))


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outputs:
    """The student's output beside its teachers'."""

    student: Output
    """With the student's gradient."""
    teachers: Sequence[Taught]
    """Those with a next-token output."""
    config: OutputConfig
    temperature: Temperature = constant
    """The rule of ``config.temperature_rule``."""
    step: int = 0
    """Optimiser steps taken in this phase."""
    lexicons: Mapping[str, Lexicon] = field(default_factory=dict)
    """See :class:`OutputPlan`."""
    rules: Mapping[str, Temperature] = field(default_factory=lambda: TEMPERATURES)
    """See :class:`OutputPlan`."""

    def under(self, kind: str, options: Mapping[str, Any]) -> Outputs:
        """For one term; see :meth:`OutputConfig.under`."""
        config = self.config.under(kind, options)
        return replace(self, config=config, temperature=_rule(self, config))

    def of(self, objective: str) -> list[Taught]:
        """The teachers that an objective learns from."""
        named = self.config.teachers.get(objective)
        return [t for t in self.teachers if named is None or t.name in named]

    def pairing(self, taught: Taught) -> Pairing:
        """Where the student and a teacher can be compared."""
        if taught.pairing is not None:
            return taught.pairing
        return Pairing(self.student.tokens, taught.output.tokens)

    def speaks_alike(self, taught: Taught) -> bool:
        """Whether a teacher has the student's vocabulary."""
        return taught.output.vocabulary == self.student.vocabulary


def _rule(phase: OutputPlan | Outputs, config: OutputConfig) -> Temperature:
    """The rule that a term names, or the phase's."""
    if config.temperature_rule == phase.config.temperature_rule:
        return phase.temperature
    return phase.rules[config.temperature_rule]
