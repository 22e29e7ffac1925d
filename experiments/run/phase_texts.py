"""What a run's phases read: from a store, as given, or written meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from align.errors import InputError, meant
from align.text.documents import TextSample
from experiments.assemble.data import RunData, cutter_of
from experiments.assemble.models import Models
from experiments.assemble.precision import autocast_of
from experiments.assemble.stored_teachers import check_texts
from experiments.config.parsing import ConfigError
from experiments.config.tree import Config
from experiments.run.context import (
    Arms,
    PhasePosition,
    RunContext,
    Stage,
    phase_seed,
    single_stage,
)
from experiments.writing.buffer import Buffer, Processes
from experiments.writing.choice import way_of
from experiments.writing.writer import lent
from plugins.registry import Registry
from student.loop.data_order import Ordering, Writing
from teacher.sources.base import TeacherSource
from teacher.sources.of_student import Itself
from teacher.store.facts import FUSED
from teacher.stored_teacher import StoredTeacher
from teacher.writing.config import STUDENT


def stored_stages(
    config: Config, models: Models, data: RunData, stages: list[Stage]
) -> list[Stage]:
    """The phases as the store can teach them, where one is read.

    Args:
        config: the run's.
        models: with the stores open.
        data: what the run reads.
        stages: with the teachers their rules chose.

    Raises:
        StoreError: a text of the run is not stored.
        ConfigError: a fused store and baselines with single teachers.
        InputError: a stored teacher is to read text that is yet to be written, or
            whoever is to write cannot.
    """
    if models.stored:
        stages = _as_stored(config, models, data, stages)
    check_writers(config, models, stages)
    return stages


def _as_stored(
    config: Config, models: Models, data: RunData, stages: list[Stage]
) -> list[Stage]:
    form = config.store.form
    if config.store.read and form == FUSED:
        asked = (config.baselines.single_teachers, config.baselines.leave_one_out)
        if asked != ("none", "none"):
            raise ConfigError(
                "store.form is fused: no teacher stands alone in it; set "
                "baselines.single_teachers=none and baselines.leave_one_out=none"
            )
        stages = [single_stage(stage, FUSED) for stage in stages]
    stages = [_without_maps(stage, models) for stage in stages]
    used = dict.fromkeys(name for stage in stages for name in stage.teachers)
    sampled = max(stage.phase.train.calibration_samples for stage in stages)
    texts = chain(data.train, data.calibration[:sampled])
    check_texts([models.stored[n] for n in used if n in models.stored], texts)
    return stages


def _without_maps(stage: Stage, models: Models) -> Stage:
    """The phase without the layer maps that the config writes for teachers whose layers
    are the student's already, as they are stored."""
    align, stores = stage.phase.align, models.stores
    on_student_layers = any(s.plan.form in ("adapted", FUSED) for s in stores)
    if not on_student_layers:
        return stage
    of_teachers = {
        name
        for name, teacher in models.teachers.items()
        if not isinstance(teacher, StoredTeacher)
        or (teacher.store and teacher.store.plan.form not in ("adapted", FUSED))
    }
    maps = {n: m for n, m in align.layer_map.items() if n in of_teachers}
    phase = replace(stage.phase, align=replace(align, layer_map=maps))
    return Stage(phase, stage.teachers)


def check_written(
    config: Config,
    registry: Registry,
    sources: Mapping[str, TeacherSource],
) -> None:
    """See, from settings alone, that texts can be written while a run trains.

    Raises:
        ConfigError: nobody of that name, the student under another one, or too many
            tokens.
        InputError: a value that the way of writing does not take.
        PluginError: no such way.
    """
    written, data = config.data.written, config.data
    if not written.on:
        return
    known = [STUDENT, *config.teachers]
    if written.by not in known:
        raise ConfigError(
            f"data.written.by is {written.by}, but nobody is called so"
            f"{meant(str(written.by), known)} Valid: {', '.join(known)}"
        )
    if isinstance(sources.get(str(written.by)), Itself):
        raise ConfigError(
            f"data.written.by is {written.by!r}, which is the student itself, but as a "
            "teacher's its text would be learned as any other; set data.written.by="
            f"{STUDENT}"
        )
    way_of(written.way, registry, "data.written.writer")
    most = written.opening_tokens + written.max_new_tokens
    if most > data.max_length:
        raise ConfigError(
            f"data.written writes up to {written.max_new_tokens} tokens after "
            f"{written.opening_tokens}, {most} in all, but data.max_length is "
            f"{data.max_length}; set data.written.max_new_tokens="
            f"{max(1, data.max_length - written.opening_tokens)}"
        )


def check_writers(config: Config, models: Models, stages: Sequence[Stage]) -> None:
    """See that whoever writes can, and that every teacher can read what is new.

    Raises:
        InputError: names the teacher.
    """
    written = config.data.written
    if not written.on:
        return
    for stage in stages:
        stored = [name for name in stage.teachers if name in models.stored]
        if stored:
            raise InputError(
                f"phase {stage.phase.name!r}: teacher {stored[0]!r} is read from a "
                "store, which holds nothing of texts that are yet to be written "
                "(data.written); ask it live (store.read=false, or its model in place "
                "of store:PATH), or choose others for this phase"
            )
    if written.own:
        return
    name = str(written.by)
    teacher = models.live.get(name)
    if teacher is None or teacher.kind != "decoder" or not teacher.predicts:
        raise InputError(
            f"data.written.by is {name!r}, a teacher without a causal model that is "
            "loaded here, so it cannot write; name one that is, or student"
        )
    if name in models.sharded:
        raise InputError(
            f"data.written.by is {name!r}, which is split over all processes "
            f"(teachers.{name}.shard) and cannot write on each by itself; name "
            "another, or leave it whole"
        )


def check_moving_writer(config: Config, models: Models, arms: Arms) -> None:
    """See that a writer that is another one in every phase, or moves, teaches wherever
    it writes: only there it is made, and moves.

    Args:
        config: the run's.
        models: with every teacher as it is opened.
        arms: all that are trained.

    Raises:
        InputError: names an arm and a phase that has other teachers alone.
    """
    written = config.data.written
    name = str(written.by)
    if not written.on or written.own or name in models.standing:
        return
    for arm, stages in arms.items():
        for stage in stages:
            if stage.teachers and name not in stage.teachers:
                raise InputError(
                    f"data.written.by is {name!r}, {config.teachers[name].model}, "
                    "which is made, and moves, where it teaches; but the teachers of "
                    f"phase {stage.phase.name!r} in arm {arm!r} are "
                    f"{', '.join(stage.teachers)}; name it in that phase's teachers "
                    "and set baselines.single_teachers=none and "
                    "baselines.leave_one_out=none, or have another write"
                )


def written_notes(config: Config) -> list[str]:
    """A sentence on what is read in place of given texts, and by which arms."""
    written = config.data.written
    if not written.on:
        return []
    who = "the student" if written.own else f"teacher {written.by!r}"
    return [
        f"{who} writes {written.share:.0%} of the texts where teachers teach, anew "
        f"every {written.every} steps; CE only reads the texts as they are given"
    ]


def read_by_others(config: Config, later: frozenset[str]) -> frozenset[str]:
    """Of the teachers that later arms ask about a phase's texts, those that are asked
    about the same ones: what an arm's student has written no other arm reads."""
    written = config.data.written
    return frozenset() if written.on and written.own else later


def writing_of(
    run: RunContext,
    stage: Stage,
    position: PhasePosition,
    model: Any,
    *,
    order: Ordering | None = None,
) -> Writing | None:
    """What stands in for some texts of a phase; None where all are read as given.

    Args:
        run: what all arms share.
        stage: the phase; without teachers nothing is written.
        position: where it stands.
        model: the student that is trained.
        order: says which text has which number.
    """
    written = run.config.data.written
    if not written.on or not stage.teachers:
        return None
    engine = run.engine
    return buffer_of(
        run.config,
        run.registry,
        run.models,
        stage,
        model,
        samples=run.data.train,
        span=Span(
            seed=phase_seed(run.config.run.seed, position.index),
            first_sample=position.first_sample,
            texts_per_step=engine.samples_per_step,
            steps=position.steps,
        ),
        processes=Processes(
            rank=engine.rank, count=engine.world_size, gather=engine.gather
        ),
        chosen=None if order is None else order.indices,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The texts of a phase."""

    seed: int
    """What is drawn begins here."""
    first_sample: int
    """Number of the first one."""
    texts_per_step: int
    """Of one optimiser step, over all processes."""
    steps: int
    """Optimiser steps of the phase."""


def buffer_of(
    config: Config,
    registry: Registry,
    models: Models,
    stage: Stage,
    model: Any,
    *,
    samples: Sequence[TextSample],
    span: Span,
    processes: Processes,
    chosen: Callable[[Sequence[int]], Sequence[int]] | None = None,
) -> Buffer:
    """A buffer that whoever writes is yet to write.

    Args:
        config: the run's, in which somebody writes.
        registry: knows the ways of writing.
        models: with the teachers of the phase.
        stage: the phase.
        model: the student that is trained.
        samples: what is given.
        span: which of them the phase reads.
        processes: that write together.
        chosen: which samples have some numbers; None: each in its turn.
    """
    written = config.data.written
    who, tokenizer, name = model, models.student_tokenizer, "the student"
    if not written.own:
        name = str(written.by)
        loaded = models.live[name].loaded
        who, tokenizer = loaded.model, loaded.tokenizer
    return Buffer(
        config=written,
        way=way_of(written.way, registry, "data.written.writer"),
        samples=samples,
        seed=config.run.seed,
        phase_seed=span.seed,
        first_sample=span.first_sample,
        texts_per_step=span.texts_per_step,
        steps=span.steps,
        writer=partial(lent, who, tokenizer, name, autocast_of(stage.phase.train)),
        cutter=cutter_of(models.encode, models.readers()),
        processes=processes,
        chosen=chosen,
    )
