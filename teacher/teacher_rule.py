"""Which of a run's teachers a phase takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from align.support.field_types import Count, check_fields

Kind = Literal["decoder", "encoder", "encoder-decoder"]


class OfKind(Protocol):
    """What a rule needs to know of a teacher: any teacher says it."""

    @property
    def kind(self) -> str:
        """decoder, encoder or encoder-decoder."""

    @property
    def family(self) -> str:
        """The architecture, as transformers' ``model_type``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFacts:
    """The same of a teacher of which nothing else is known."""

    kind: str
    """decoder, encoder or encoder-decoder."""
    family: str
    """The architecture, as transformers' ``model_type``: gpt2, llama, bert."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherRule:
    """A phase's wish; in YAML a plain list of names is short for ``names``."""

    names: list[str] | None = None
    """Take exactly these; null chooses among all teachers by the other fields."""
    min: Count = 1
    """Fewest teachers the phase makes sense with; with 0 and none at hand it trains by
    cross-entropy alone."""
    max: int | None = None
    """Most teachers it takes, in the order of the config; null for all."""
    kinds: list[Kind] | None = None
    """Kinds it can use; null for all."""
    families: Literal["any", "one", "many"] = "any"
    """``one`` prefers teachers of one architecture, ``many`` spreads over
    architectures before it takes a second of any; both are preferences."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a value that its type does not take, or max below min.
        """
        check_fields(self, "teachers")
        names = self.names or []
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"teachers names {repeated!r} twice; name each once")
        if self.max is not None and self.max < self.min:
            raise ValueError(
                f"teachers.max must be >= teachers.min ({self.min}), got {self.max}"
            )


def select_teachers(
    rule: TeacherRule, facts: Mapping[str, OfKind], phase: str
) -> list[str]:
    """Choose a phase's teachers.

    Args:
        rule: the phase's wish.
        facts: every teacher of the run, in the order of the config.
        phase: the phase's name, for errors.

    Returns:
        Names, at least ``rule.min`` of them, in the order of the config (or of
        ``rule.names``).

    Raises:
        ValueError: too few teachers fit.
    """
    if rule.names is not None:
        chosen = list(rule.names)
    else:
        kinds = rule.kinds
        fit = [
            name for name, fact in facts.items() if kinds is None or fact.kind in kinds
        ]
        chosen = _by_family(rule, fit, facts)
    if len(chosen) < rule.min:
        raise ValueError(too_few(rule, phase, chosen, facts))
    return chosen


def too_few(
    rule: TeacherRule,
    phase: str,
    chosen: Sequence[str],
    facts: Mapping[str, OfKind],
) -> str:
    """Word the error for a phase which lacks teachers."""
    kinds = f" of kind {' or '.join(rule.kinds)}" if rule.kinds else ""
    known = ", ".join(f"{name} ({fact.kind})" for name, fact in facts.items())
    return (
        f"phase {phase!r} needs at least {rule.min} teachers{kinds}, but "
        f"{len(chosen)} fit ({', '.join(chosen) or 'none'}); the config has "
        f"{known or 'no teachers'}. Add some under 'teachers', give 'phases' "
        f"without it, or set phase.{phase}.teachers.min"
        + ("" if facts else "; `mtkd recipes list` shows whole configs to begin with")
    )


def _by_family(
    rule: TeacherRule, fit: Sequence[str], facts: Mapping[str, OfKind]
) -> list[str]:
    most = len(fit) if rule.max is None else rule.max
    groups: dict[str, list[str]] = {}
    for name in fit:
        groups.setdefault(facts[name].family, []).append(name)
    if rule.families == "one":
        for members in groups.values():
            if len(members) >= rule.min:
                return members[:most]
    if rule.families == "many":
        rounds = {name: i for group in groups.values() for i, name in enumerate(group)}
        spread = sorted(fit, key=lambda name: rounds[name])[:most]
        return [name for name in fit if name in spread]
    return list(fit[:most])
