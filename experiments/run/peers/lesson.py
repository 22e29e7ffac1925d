"""A phase as a peer goes through it: from whom it learns, and by which terms."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from align.views import ModelFacts
from experiments.assemble.outputs import teachers_of
from experiments.config.parsing import ConfigError
from experiments.config.tree import PhaseConfig
from experiments.sources.phases import STUDENT
from fuse.config import FuseConfig
from student.output_config import OUTPUT_TERMS
from student.terms.key_value import BUILT_IN, chosen_terms


def lesson_of(
    phase: PhaseConfig,
    name: str,
    peers: Collection[str],
    teachers: Mapping[str, ModelFacts],
) -> PhaseConfig:
    """What a peer learns in a phase, as a phase of its own.

    Its teachers are the run's student and the phase's other peers, alike in weight.
    Terms on outputs are those by which the student learns from it, so the two
    vocabularies allow them; from another peer it learns by those by which the student
    learns from both. The next-token loss and built-in terms on keys and values are the
    phase's; strangers' terms, balancers, selectors, routers and the outcome are the
    student's alone.

    Args:
        phase: resolved settings.
        name: the peer's.
        peers: all of the phase, in order.
        teachers: all of the phase, by name.

    Raises:
        ConfigError: it would learn nothing from the student.
    """
    others = [STUDENT, *(peer for peer in peers if peer != name)]
    heard = {
        term: [STUDENT, *(peer for peer in others if peer in taught)]
        for term, choice in chosen_terms(phase.loss, phase.output).items()
        if choice.kind in OUTPUT_TERMS
        if name in (taught := teachers_of(phase, term, teachers))
    }
    if not heard:
        raise ConfigError(
            f"phase {phase.name!r}: the student learns from the peer {name!r} by no "
            f"term on next-token outputs, so {name!r} would not learn from the student "
            "either; name it in output.teachers, or leave it out of the phase"
        )
    silent: dict[str, Any] = {t: 0.0 for t in OUTPUT_TERMS if t not in heard}
    loss = replace(
        phase.loss,
        terms=_terms(phase.loss.terms, phase, heard, name, peers),
        extra={},
        balance="none",
        select={},
        eta_outcome=0.0,
    )
    output = replace(
        phase.output,
        teachers={term: heard[term] for term in OUTPUT_TERMS if term in heard},
        **silent,
    )
    return replace(
        phase,
        teachers=others,
        absent=(),
        align=replace(phase.align, layer_map={}),
        fuse=FuseConfig(),
        loss=loss,
        output=output,
        train=replace(phase.train, prefetch=False),
    )


def _terms(
    given: Mapping[str, Mapping[str, Any]],
    phase: PhaseConfig,
    heard: Mapping[str, list[str]],
    name: str,
    peers: Collection[str],
) -> dict[str, dict[str, Any]]:
    """The entries of ``loss.terms`` that are built in and concern a peer."""
    terms = {}
    for term, entry in given.items():
        kind, listed = phase.loss.chosen[term].kind, entry.get("teachers")
        if kind in OUTPUT_TERMS:
            if term in heard:
                terms[term] = {**entry, "teachers": heard[term]}
        elif kind not in BUILT_IN or (isinstance(listed, list) and name not in listed):
            continue
        elif isinstance(listed, list):
            both = [peer for peer in peers if peer in listed and peer != name]
            terms[term] = {**entry, "teachers": [STUDENT, *both]}
        else:
            terms[term] = dict(entry)
    return terms
