"""What a phase asks of each teacher, and what is left out where one cannot give it.

A term learns from whoever has what it needs. That a teacher is left out of a term is
said in the log and in the report; a term from which all are left out is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from align.schedules import RULES, is_on
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
    kinds_of,
    named_teachers,
    reading_outputs,
    setting_of,
    signals_wanted,
    teachers_of,
)
from experiments.config.parsing import ConfigError
from experiments.config.tree import PhaseConfig
from fuse.routers.router import learns, needs_sample
from fuse.signals import (
    AGREEMENT,
    COST,
    ENTROPY,
    KV_FIT,
    LOG_PROB,
    MAX_PROB,
    OF_FORETOLD,
    OF_OUTPUTS,
    OF_STUDENT,
    RIGHT,
    signals_needed,
)
from plugins.registry import Registry
from student.objective import RELATIONS, Objective, alone, needs_of
from student.output_config import HEATED
from student.select.choice import KV, NEXT_TOKEN
from student.select.choice import OUTPUTS as ON_OUTPUTS
from student.step.context import introduce
from student.terms.key_value import chosen_terms
from teacher.capture.pair_capture import NO_KEYS

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
    return bool(signals_wanted(phase, registry) & OF_FORETOLD)


def wants_kv(phase: PhaseConfig, registry: Registry) -> bool:
    """Whether a phase with teachers asks them for keys and values.

    Terms do that compare them. The outcome does where somebody learns from it: a
    router, or the adapters whose targets such a term takes. With neither it would
    train what nobody reads, and is left out.
    """
    if KEYS_VALUES in needs_of(asking_objectives(phase, registry)):
        return True
    if KV_FIT in signals_wanted(phase, registry):
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
    """Refuse, before any work, a term that needs what no teacher of a phase can give,
    or one that it names; and a teacher that no term can learn from beside an
    encoder-decoder.

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
        wanted = named_teachers(phase, term)
        for need in sorted(needs_of({term: objective}) & given):
            among = {n: t for n, t in teachers.items() if n in (wanted or teachers)}
            giving = who_gives(need, among)
            if len(giving) == len(among) or (wanted is None and giving):
                continue
            others = f"name others in loss.terms.{term}.teachers, " if wanted else ""
            raise ConfigError(
                f"{term} compares {need}, which {_reasons(need, among)}; {others}set "
                f"{setting_of(phase, term)}=0 for the phase, or ask a teacher live "
                "(store.read)"
            )
    _check_all_teach(phase, registry, teachers)
    if wants_own_loss(phase, registry) and not who_gives(OWN_LOSS, teachers):
        raise ConfigError(
            "a router here learns from the teachers' own losses, which "
            f"{_reasons(OWN_LOSS, teachers)}; extract again with this config, ask a "
            "teacher live (store.read), or set phase.all.loss.router_signal=outcome"
        )
    _check_signals(phase, registry, teachers)
    _check_once(phase, registry)


def _check_all_teach(
    phase: PhaseConfig, registry: Registry, teachers: Teachers
) -> None:
    """Refuse a teacher whose keys and values are of another kind than those of an
    encoder-decoder student, and which is asked for nothing else."""
    terms = asking_objectives(phase, registry)
    for name, teacher in teachers.items():
        lacks = getattr(teacher, "lacks", {})
        if lacks.get(KEYS_VALUES) != NO_KEYS:
            continue
        teaching = [
            term
            for term, objective in terms.items()
            if not needs_of({term: objective}) & lacks.keys()
            and name in (named_teachers(phase, term) or teachers)
        ]
        if not teaching:
            raise ConfigError(
                f"teacher {name!r} would teach nothing in phase {phase.name!r}: "
                f"{', '.join(terms)} compare what it cannot give: {NO_KEYS}; leave it "
                "out, or have its outputs learned (output.kd, or across vocabularies "
                "output.projected_kl)"
            )


def _check_signals(phase: PhaseConfig, registry: Registry, teachers: Teachers) -> None:
    """Refuse what is to be told and no teacher of a phase can tell."""
    wanted, train = signals_wanted(phase, registry), phase.train
    of_router = _router_wants(phase, registry)

    def asker(signals: frozenset[str]) -> str:
        asks = f"the router {phase.fuse.router!r}"
        return asks if of_router & signals else "what loss.select asks for"

    for need, given in (
        (FORETOLD, OF_FORETOLD),
        (OUTPUTS, OF_OUTPUTS),
        (KEYS_VALUES, frozenset({KV_FIT})),
    ):
        if wanted & given and not who_gives(need, teachers):
            raise ConfigError(
                f"{asker(given)} goes by {_named(wanted & given)}, which "
                f"{_reasons(need, teachers)}; choose another, or add a causal "
                "teacher that is asked live (store.read)"
            )
    if AGREEMENT in wanted:
        spoken = [teachers[name].vocabulary for name in who_gives(OUTPUTS, teachers)]
        if len(set(spoken)) == len(spoken):
            raise ConfigError(
                f"{asker(frozenset({AGREEMENT}))} goes by agreement, but no two of "
                f"{', '.join(teachers)} that predict have one vocabulary, so their "
                "likeliest tokens cannot be compared; choose another, or other teachers"
            )
    if COST in wanted and not any(t.sizes.parameters for t in teachers.values()):
        raise ConfigError(
            f"{asker(frozenset({COST}))} goes by cost, but how many parameters "
            f"{', '.join(teachers)} have is not known, as of teachers in a store; "
            "choose another, or ask one live (store.read)"
        )
    heard = wanted & (OF_OUTPUTS | OF_STUDENT)
    if heard and train.engine == "deepspeed" and train.zero_stage == 3:
        raise ConfigError(
            f"{asker(heard)} goes by {_named(heard)}, which read the student's head, "
            "and train.zero_stage=3 splits it between processes; set "
            "train.zero_stage=2, or choose another"
        )


def _check_once(phase: PhaseConfig, registry: Registry) -> None:
    """Refuse confidence that counts twice."""
    fuse, weighting = phase.fuse, phase.output.weighting
    heard = _router_wants(phase, registry) & {ENTROPY, MAX_PROB, LOG_PROB, RIGHT}
    if heard and weighting != "routing":
        raise ConfigError(
            f"the router {fuse.router!r} goes by {_named(heard)} and "
            f"output.weighting={weighting} shares the weight out anew by the same "
            "kind of thing, in outputs alone; leave one of them out"
        )


def _router_wants(phase: PhaseConfig, registry: Registry) -> frozenset[str]:
    """What a phase's router is told."""
    router = registry.guarded("router", phase.fuse.router)
    return signals_needed(router, phase.fuse.router_options)


def _named(signals: frozenset[str]) -> str:
    return ", ".join(sorted(signals))


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
    wanted = _router_wants(phase, registry)
    for need, given in ((FORETOLD, OF_FORETOLD), (OUTPUTS, OF_OUTPUTS)):
        for name, reason in _lacking(need, teachers) if wanted & given else ():
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


def idle_settings(
    phase: PhaseConfig, teachers: Teachers, registry: Registry | None = None
) -> list[str]:
    """What is chosen in ``output``, and where routers are known of routing and
    selecting, and changes nothing in a phase, a sentence each."""
    output = phase.output
    sentences = _idle_fusion(phase, registry) if registry and teachers else []
    on = set(kinds_of(phase))
    rule = output.heat.get("rule", "linear")
    if rule != "constant" and not on & set(HEATED):
        short = not isinstance(output.temperature, Mapping)
        setting = f"temperature_rule={rule}" if short else "temperature, a schedule,"
        sentences.append(
            f"output.{setting} changes nothing: no "
            f"objective with a temperature is on ({', '.join(HEATED)})"
        )
    if output.combine == "losses":
        return sentences
    alone = "kd" not in on or len(teachers_of(phase, "kd", teachers)) < 2
    whole = output.divergence == "forward" and not output.top_k + output.threshold
    if alone:
        why = "only output.kd with several teachers combines them"
    elif whole and rule in RULES:
        why = (
            "under forward KL over the whole vocabulary the mean of distributions has "
            "the gradient of the sum of losses; output.divergence=reverse or "
            "jensen_shannon, or output.top_k, make them differ"
        )
    else:
        return sentences
    return [*sentences, f"output.combine={output.combine} changes nothing: {why}"]


def _idle_fusion(phase: PhaseConfig, registry: Registry) -> list[str]:
    fuse, sentences = phase.fuse, list[str]()
    router = registry.guarded("router", fuse.router)
    if not learns(router) and fuse.routing_per_layer:
        sentences.append(
            f"fuse.routing_per_layer changes nothing: the router {fuse.router!r} "
            "learns nothing, and is one for all layers"
        )
    heard = fuse.router in ("fixed", "similarity") or learns(router)
    if not heard and fuse.temperature != 1 and fuse.moving_temperature is None:
        sentences.append(
            f"fuse.temperature={fuse.temperature:g} changes nothing: the router "
            f"{fuse.router!r} learns nothing; see its own options "
            "(fuse.fusion_method: {use: …})"
        )
    compared = {ATTENTION, HEADS, RELATIONS, *STATES, KEYS_VALUES}
    needs = needs_of(asking_objectives(phase, registry))
    works = {
        NEXT_TOKEN: True,
        KV: bool(needs & compared),
        ON_OUTPUTS: bool(reading_outputs(phase, registry)),
    }
    for name, chosen in phase.loss.selectors.items():
        if not any(works[part] for part in chosen.on):
            sentences.append(
                f"loss.select.{name} changes nothing: no term compares "
                f"{' or '.join(chosen.on)}, on which it is"
            )
    return sentences
