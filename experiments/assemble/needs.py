"""What a phase asks of each teacher, and what is left out where one cannot give it.

A term learns from whoever has what it needs. That a teacher is left out of a term is
said in the log and in the report; a term from which all are left out is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from align.schedules import is_on
from align.sizes import Sizes
from align.views import (
    ATTENTION,
    EMBEDDINGS,
    FORETOLD,
    HEADS,
    KEYS_VALUES,
    OUTPUTS,
    OWN_LOSS,
    STATES,
    ModelFacts,
    Teacher,
)
from experiments.assemble.outputs import (
    active_objectives,
    named_teachers,
    setting_of,
)
from experiments.config.parsing import ConfigError
from experiments.config.tree import PhaseConfig
from fuse.router import learns, needs_sample
from fuse.signals import signals_needed
from plugins.registry import Registry
from student.objective import Objective, alone, needs_of
from student.step.context import introduce
from student.terms.key_value import chosen_terms

Teachers = Mapping[str, Teacher]


def asking_objectives(phase: PhaseConfig, registry: Registry) -> dict[str, Objective]:
    """The terms of a phase that learn from teachers, by name."""
    terms = active_objectives(phase, registry)
    return {name: term for name, term in terms.items() if not alone(term)}


def alone_objectives(phase: PhaseConfig, registry: Registry) -> dict[str, Objective]:
    """Those that ask no teacher."""
    terms = active_objectives(phase, registry)
    return {name: term for name, term in terms.items() if alone(term)}


def wants_own_loss(phase: PhaseConfig, registry: Registry) -> bool:
    """Whether a phase asks the teachers for their own next-token loss."""
    router = registry.guarded("router", phase.fuse.router)
    return needs_sample(router) or (
        learns(router) and phase.loss.router_signal != "outcome"
    )


def wants_foretold(phase: PhaseConfig, registry: Registry) -> bool:
    """Whether a phase asks the teachers how likely they found each token."""
    router = registry.guarded("router", phase.fuse.router)
    return FORETOLD in signals_needed(router)


def wants_kv(phase: PhaseConfig, registry: Registry) -> bool:
    """Whether a phase with teachers asks them for keys and values.

    Terms do that compare them. The outcome does where somebody learns from it: a
    router, or the adapters whose targets such a term takes. With neither it would
    train what nobody reads, and is left out.
    """
    if KEYS_VALUES in needs_of(asking_objectives(phase, registry)):
        return True
    loss, router = phase.loss, registry.guarded("router", phase.fuse.router)
    outcome = is_on(loss.eta_outcome) and loss.outcome_every > 0
    return outcome and learns(router) and loss.router_signal != "teacher_loss"


def wanted_parts(phase: PhaseConfig, registry: Registry) -> dict[str, Any]:
    """What a phase asks of teachers beside keys and values, as a panel takes it."""
    needs = needs_of(asking_objectives(phase, registry))
    parts = {"attention": ATTENTION, "heads": HEADS}
    asked: dict[str, Any] = {part: need in needs for part, need in parts.items()}
    return asked | {"states": needs & STATES}


def who_gives(need: str, teachers: Mapping[str, ModelFacts]) -> list[str]:
    """The teachers that do not lack something, in order."""
    return [n for n, t in teachers.items() if need not in getattr(t, "lacks", {})]


def sizes_of(teachers: Mapping[str, ModelFacts]) -> dict[str, Sizes]:
    """By teacher."""
    return {name: teacher.sizes for name, teacher in teachers.items()}


def with_depth(
    phase: PhaseConfig, registry: Registry, teachers: Mapping[str, ModelFacts]
) -> list[str]:
    """The teachers that are mapped onto the student's layers: those that bring keys and
    values, attention or hidden states, where a phase asks for any."""
    mapped = set(who_gives(KEYS_VALUES, teachers) if wants_kv(phase, registry) else ())
    needs = needs_of(asking_objectives(phase, registry))
    for need in needs & {ATTENTION, HEADS, *STATES - {EMBEDDINGS}}:
        mapped |= set(who_gives(need, teachers))
    return [name for name in teachers if name in mapped]


def check_needs(phase: PhaseConfig, registry: Registry, teachers: Teachers) -> None:
    """Refuse, before any work, a term that needs what no teacher of a phase can give.

    :func:`experiments.assemble.outputs.check_outputs` sees to next-token outputs.

    Raises:
        ConfigError: names term, teachers and setting.
    """
    for term, choice in chosen_terms(phase.loss, phase.output).items():
        named = choice.options.get("teachers")
        listed = named if isinstance(named, list) else []
        if named == []:
            raise ConfigError(
                f"loss.terms.{term}.teachers is [], so the term would compare nothing; "
                f"name some of {', '.join(teachers)}, leave teachers out for all, or "
                "set the term's weight to 0"
            )
        absent = [name for name in listed if name not in teachers]
        if absent:
            raise ConfigError(
                f"loss.terms.{term}.teachers names {absent[0]!r}, which the phase does "
                f"not take; it takes {', '.join(teachers)}"
            )
    for term, objective in asking_objectives(phase, registry).items():
        given = {ATTENTION, HEADS, *STATES, KEYS_VALUES}
        for need in sorted(needs_of({term: objective}) & given):
            if who_gives(need, teachers):
                continue
            raise ConfigError(
                f"{term} compares {need}, which {_reasons(need, teachers)}; set "
                f"{setting_of(phase, term)}=0 for the phase, or ask a teacher live "
                "(store.read)"
            )
    if wants_own_loss(phase, registry) and not who_gives(OWN_LOSS, teachers):
        raise ConfigError(
            "a router here learns from the teachers' own losses, which "
            f"{_reasons(OWN_LOSS, teachers)}; extract again with this config, ask a "
            "teacher live (store.read), or set phase.all.loss.router_signal=outcome"
        )
    _check_router(phase, registry, teachers)


def _check_router(phase: PhaseConfig, registry: Registry, teachers: Teachers) -> None:
    if not wants_foretold(phase, registry):
        return
    if not who_gives(FORETOLD, teachers):
        raise ConfigError(
            f"phase {phase.name!r}: the router {phase.fuse.router!r} goes by how "
            f"likely teachers find texts, which {_reasons(FORETOLD, teachers)}; choose "
            "another router, or add a causal teacher that is asked live (store.read)"
        )


def check_sizes(
    phase: PhaseConfig, registry: Registry, student: Sizes, teachers: Teachers
) -> None:
    """Refuse, before any work, a term that cannot compare models of these sizes.

    Raises:
        InputError: names term, site, widths and what would bring them together.
    """
    if teachers:
        with torch.device("meta"):  # nothing is made but found possible
            terms = active_objectives(phase, registry)
            introduce(terms, student, sizes_of(teachers))


def left_out(
    phase: PhaseConfig, registry: Registry, teachers: Teachers
) -> Iterator[str]:
    """A sentence on each teacher that a term of a phase cannot learn from."""
    for term, objective in asking_objectives(phase, registry).items():
        for need in sorted(needs_of({term: objective})):
            yield from _left_out(phase, term, need, teachers)
    if wants_own_loss(phase, registry):
        for name, reason in _lacking(OWN_LOSS, teachers):
            yield (
                f"phase {phase.name!r}: the router hears nothing of the own loss of "
                f"teacher {name!r}, only of the others': {reason}"
            )
    if wants_foretold(phase, registry):
        for name, reason in _lacking(FORETOLD, teachers):
            yield (
                f"phase {phase.name!r}: the router weighs teacher {name!r} as the "
                f"others on average: {reason}"
            )


def _left_out(
    phase: PhaseConfig, term: str, need: str, teachers: Teachers
) -> Iterator[str]:
    named = named_teachers(phase, term)
    for name, reason in _lacking(need, teachers):
        if need == OUTPUTS and named is not None:
            continue  # the config says itself who is meant
        yield (
            f"phase {phase.name!r}: {term} learns nothing from teacher {name!r}, only "
            f"from {', '.join(who_gives(need, teachers))}: {reason}"
        )


def _lacking(need: str, teachers: Teachers) -> list[tuple[str, str]]:
    """Who lacks something, and why."""
    return [(n, t.lacks[need]) for n, t in teachers.items() if need in t.lacks]


def _reasons(need: str, teachers: Teachers) -> str:
    return "; ".join(
        f"teacher {name!r} cannot give: {reason}"
        for name, reason in _lacking(need, teachers)
    )
