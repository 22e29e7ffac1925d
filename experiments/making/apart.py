"""What cannot be learned where teachers read the sources of the student's texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from align.across.tokens import SINKS
from align.schedules import is_on
from align.views import ATTENTION, HEADS, KEYS_VALUES, OUTPUTS, STATES
from experiments.assemble.needs import (
    asking_objectives,
    wants_foretold,
    wants_kv,
    wants_own_loss,
)
from experiments.assemble.outputs import setting_of, signals_wanted
from experiments.config.parsing import ConfigError
from experiments.config.tree import Config, PhaseConfig
from experiments.making.pairs import student_reads_pairs
from fuse.routers.router import learns
from fuse.signals import OF_OUTPUTS
from plugins.registry import Registry
from student.objective import needs_of
from student.terms.key_value import chosen_terms

_LIVE = ("store:", "server:", "peer:")
"""Teachers that are not asked here, or that learn from what they read."""


def check_apart(
    config: Config, phases: Sequence[PhaseConfig], registry: Registry
) -> None:
    """See that nothing is compared that two texts have not in common.

    Raises:
        ConfigError: a setting that goes with texts alone that student and teachers both
            read; names it, and says why.
    """
    apart = [name for name, pairs in config.data.pairs.items() if pairs.apart]
    if not apart:
        return
    place = f"data.pairs.{apart[0]}.apart"
    for why in (*_of_run(config, apart), *_of_phases(config, phases, registry)):
        raise ConfigError(f"{place}: teachers read what the student does not; {why}")


def _of_run(config: Config, apart: Sequence[str]) -> Iterator[str]:
    data = config.data
    others = [name for name in data.pairs if name not in apart]
    if data.train or data.eval or others:
        place = f"data.pairs.{others[0]}" if others else "data.train"
        if data.eval and not data.train:
            place = "data.eval"
        yield (
            f"{place} holds texts that both read, which go in runs of their own; set "
            "data.train=[] and data.eval=[], and apart for all pairs"
        )
    if student_reads_pairs(config):
        yield (
            f"and student.model {config.student.model!r}, an encoder-decoder, reads "
            "sources itself; set apart=false, or give a decoder"
        )
    if config.store.read:
        yield "store.read holds what was read of the student's texts; set it to false"
    if data.written.on:
        yield "data.written has no sources; set data.written.by=null"
    for name, teacher in config.teachers.items():
        if teacher.model.startswith(_LIVE):
            yield (
                f"teachers.{name}.model is {teacher.model!r}, which is asked about the "
                "student's texts; give a model, which is loaded here"
            )


def _of_phases(
    config: Config, phases: Sequence[PhaseConfig], registry: Registry
) -> Iterator[str]:
    for phase in phases:
        place = f"phase.{phase.name}"
        yield from _of_terms(config, phase, registry)
        if phase.train.teacher_ranks:
            yield (
                f"{place}.train.teacher_ranks={phase.train.teacher_ranks} has them "
                "read the student's texts elsewhere; set it to 0"
            )
        router = registry.guarded("router", phase.fuse.router)
        heard = signals_wanted(phase, registry) & OF_OUTPUTS
        if heard or wants_foretold(phase, registry):
            yield (
                f"{place}.fuse.fusion_method or loss.select goes by what they foretell "
                "of the student's text; choose others"
            )
        if wants_own_loss(phase, registry):
            yield (
                f"the router of {place} goes by their losses on their own texts; set "
                "fuse.fusion_method to one that learns nothing, such as fixed"
            )
        loss = phase.loss
        outcome = is_on(loss.eta_outcome) and loss.outcome_every > 0
        if outcome and (wants_kv(phase, registry) or learns(router)):
            yield (
                f"{place}.loss.outcome_every is {loss.outcome_every}, but what has "
                "read a source has read what the translation is yet to say, and is "
                "never injected; set it to 0"
                + (", with a router that learns nothing" if learns(router) else "")
            )


def _of_terms(config: Config, phase: PhaseConfig, registry: Registry) -> Iterator[str]:
    chosen = chosen_terms(phase.loss, phase.output)
    sentences = any(pairs.links is None for pairs in config.data.pairs.values())
    for name, term in asking_objectives(phase, registry).items():
        needs, setting = needs_of({name: term}), setting_of(phase, name)
        if needs & {OUTPUTS, ATTENTION, HEADS}:
            what = "outputs" if OUTPUTS in needs else "attention"
            yield (
                f"{setting} of phase.{phase.name} is to be 0: {what} over one text "
                "and another compare nothing"
            )
        if not sentences or not needs & {KEYS_VALUES, *STATES}:
            continue
        if phase.loss.skip_sinks > SINKS:
            yield (
                f"phase.{phase.name}.loss.skip_sinks is {phase.loss.skip_sinks}, and "
                f"the mean of a source leaves out {SINKS}, so that no token would be "
                f"compared; give data.pairs.NAME.links, or {SINKS}"
            )
        pool = int(chosen[name].options.get("pool", 1))
        if pool < config.data.max_length:
            yield (
                f"{setting} of phase.{phase.name} compares tokens, and without "
                "data.pairs.NAME.links nothing says which go together; give links "
                "(mtkd link), set it to 0, or compare means of whole sentences: "
                "loss.terms={sentence: {use: match, site: hidden, projector: linear, "
                f"distance: mse, pool: {config.data.max_length}}}}}"
            )
