"""Train one phase of one arm: calibrate, train, measure, save."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.foreign.quote import say
from align.foreign.signature import check_signed, sign
from align.schedules import Timetable
from align.support.process_memory import give_back
from experiments.assemble.checks import timetable_of
from experiments.assemble.outputs import output_plan, own_head
from experiments.assemble.precision import autocast_of
from experiments.assemble.selecting.selectors import build_selection
from experiments.assemble.teaching import (
    PhaseTeachers,
    build_balance,
    build_objectives,
    build_phase_teachers,
)
from experiments.choosing.weigher import shares_of
from experiments.making.transforms import (
    build_transforms,
    finish_transforms,
    save_untransformed,
)
from experiments.record.progress import Work
from experiments.record.run_dir import checkpoint_folder
from experiments.record.stop import RunStopped
from experiments.run.alarms import Alarms
from experiments.run.context import PhasePosition, RunContext, Stage, phase_seed
from experiments.run.evaluation import evaluate, measure_health
from experiments.run.measures.alarms import alarms_of
from experiments.run.measures.observer import PhaseObserver
from experiments.run.measures.order import log_order, order_of, scores_by_text
from experiments.run.measures.scores import SCORES, scores_digests
from experiments.run.measures.students import measure_gate, measure_more
from experiments.run.measures.watch import Watch, exits_kept, put_best, watch_of
from experiments.run.peers.companions import Peers, moving_of
from experiments.run.peers.lessons import teaching_student
from experiments.run.phase_texts import read_by_others, writing_of
from experiments.sources.compiled import compile_model
from experiments.sources.phases import begin_teachers
from student.checkpoint import (
    NonFiniteStudentError,
    atomic_folder,
    mark_complete,
    refuse_non_finite,
)
from student.config import TrainConfig
from student.distiller import Distiller
from student.fitting import fit_terms
from student.loop.data_order import Ordering, Writing
from student.loop.job import Companions
from student.loop.phase_checkpoint import Keeper, is_kept
from student.loop.trainer import Job, train_phase
from student.transforms import Transforms, is_transformed
from teacher.capture.kv_capture import KVCapture
from teacher.capture.pair_capture import capture_of
from teacher.loading.vouched import STUDENT, UNTRANSFORMED

LAST = "last"
"""In a phase's folder: its last student, where the best one is another."""


def run_stage(run: RunContext, stage: Stage, position: PhasePosition) -> dict[str, Any]:
    """Calibrate, train, measure and save one phase.

    Returns:
        What was measured: ``name``, ``steps``, ``bpc`` by domain, ``teachers``,
        ``health``, ``metrics`` by name and part where more is measured, ``best`` where
        the best student of the phase is kept, where a gate has text of its own
        ``gate_bpc`` or ``gate_metrics`` and, where teachers took part, ``coverage``,
        ``fit`` and ``layer_map``.

    Raises:
        RunStopped: asked to stop; a checkpoint was written.
        NonFiniteStudentError: a weight, or the loss on held-out text, is NaN or
            infinite; the phase is not marked complete.
    """
    phase, engine = stage.phase, run.engine
    seed = phase_seed(run.config.run.seed, position.index)
    torch.manual_seed(seed)
    start = position.start
    model = run.models.student(start.begins, start.drawn).to(engine.device)
    capture = capture_of(model)
    if phase.train.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if phase.train.compile:
        compile_model(capture, "train.compile", autocast=autocast_of(phase.train))
    encode = run.models.encode
    timetable = timetable_of(phase, run.registry, position.steps, seed)
    transforms = build_transforms(phase, run.registry, model, timetable)
    later = run.again[position.arm, position.index]
    begin_teachers(
        run.models.sources,
        stage.teachers,
        start,
        making=lambda name: replace(run.models.making(name), learning=model),
        place=run.models.place,
    )
    with run.answers.during("calibration", stage.teachers, later.calibration):
        phase_teachers = _faculty(run, stage, position, capture, timetable)
    distiller = _distiller(
        run, stage, model, capture, phase_teachers, timetable=timetable
    )
    if phase_teachers is not None:
        rows = distiller.compared_rows
        fit_terms(distiller, lambda title: phase_teachers.sample(title, rows))
    order = order_of(run, position, stage, capture)
    alarms = alarms_of(run, stage, position, capture, order=order)
    writing = writing_of(run, stage, position, model, order=order)
    teaching = teaching_student(run.models, model, capture)
    moving = moving_of(run, stage, position, teaching, writing=writing, order=order)
    watch = watch_of(run, phase, capture, model, position)
    give_back()  # what calibrating summed up, so that the peak is that of a step
    title = f"{position.arm} · {phase.name}"
    leg = (position.arm, position.index)
    with run.progress.work(title, position.steps, leg) as show:
        job = _job(
            run,
            stage,
            position=position,
            phase_teachers=phase_teachers,
            alarms=alarms,
            work=show,
            companions=moving,
            writing=writing,
            order=order,
            watch=watch,
            transforms=transforms,
        )
        train = in_step(phase.train, bool(run.models.sharded))
        again = read_by_others(run.config, later.phase)
        with run.answers.during(f"phase {position.index}", again, again):
            done = train_phase(distiller, engine, job, train)
    give_back()  # the optimiser's; students are loaded again from here on
    if done < position.steps and not (watch and watch.stopped):
        raise RunStopped(f"{title}: {done} of {position.steps} steps")
    log_order(order, done)
    best = put_best(run, watch, model, last_folder(position.folder))
    if transforms is not None:
        finish_transforms(transforms, model, encode, run.data.calibration)
    whose = f"the student of phase {phase.name!r} (arm {position.arm!r})"
    refuse_non_finite(model.named_parameters(), whose)
    exits = exits_kept(distiller.exits, best, done)
    every, alone = phase.train.checkpoint_every, engine.world_size == 1
    kept = alone and is_kept(position.steps, position.steps, every)
    with nullcontext() if kept else run.progress.to_the_end():
        result = _measure(run, stage, position, capture, phase_teachers)
        result |= {"steps": done} | best
        if scored := scores_digests(run.run_dir, stage, position.index):
            result[SCORES] = scored
        result |= measure_more(run, capture, model, title, exits=exits)
        result |= moving.measured() if isinstance(moving, Peers) else {}
        if position.gated:
            result |= measure_gate(run, capture, model, f"measuring {title}", exits)
    _check_bits(whose, result["bpc"])

    def keep() -> None:
        _save(model, run, position, result, moving, exits=exits)
        shutil.rmtree(checkpoint_folder(position.folder), ignore_errors=True)

    engine.from_main(keep)
    return result


def _check_bits(whose: str, bpc: Mapping[str, float]) -> None:
    """See that a student is worth keeping.

    Raises:
        NonFiniteStudentError: names the domains on which it is not.
    """
    bad = [domain for domain, bits in bpc.items() if not math.isfinite(bits)]
    if bad:
        raise NonFiniteStudentError(
            f"{whose} gives no finite loss on held-out text of {', '.join(bad)}, "
            "though its weights are finite, and so it is not kept; lower "
            "train.learning_rate or the largest loss weight, or train in a wider type"
        )


def in_step(train: TrainConfig, tied: bool) -> TrainConfig:
    """Without prefetch where a teacher's forward takes all processes: two threads would
    talk to the others at once, each process in an order of its own."""
    return replace(train, prefetch=train.prefetch and not tied)


def _job(
    run: RunContext,
    stage: Stage,
    *,
    position: PhasePosition,
    phase_teachers: PhaseTeachers | None,
    alarms: Alarms,
    work: Work,
    companions: Companions | None,
    writing: Writing | None,
    order: Ordering | None,
    watch: Watch | None,
    transforms: Transforms | None,
) -> Job:
    """What the loop is to do, and where it reports."""
    return Job(
        samples=run.data.train,
        encode=run.models.encode,
        views=phase_teachers.panel if phase_teachers else None,
        steps=position.steps,
        seed=run.config.run.seed,
        checkpoints=_keeper(run, checkpoint_folder(position.folder), stage.phase.train),
        first_sample=position.first_sample,
        companions=companions,
        choose=phase_teachers.choose if phase_teachers else None,
        writing=writing,
        order=order,
        watch=watch,
        transforms=transforms,
        observer=PhaseObserver(
            metrics=run.metrics,
            position=position,
            phase=stage.phase.name,
            alarms=alarms,
            phase_teachers=phase_teachers,
            work=work,
            stop=run.stop,
        ),
    )


def last_folder(folder: Path) -> Path:
    """Where a phase's last student waits until the best one's folder is whole."""
    return checkpoint_folder(folder) / LAST


def _keeper(run: RunContext, folder: Path, train: TrainConfig) -> Keeper:
    def warn(text: str) -> None:
        say(f"warning: {text}")

    return Keeper(
        folder=folder,
        keep=train.keep_checkpoints,
        run=run.run_id,
        trust=run.trust,
        warn=warn,
        may_write=run.may_write,
        sign=sign,
        check_signed=lambda checkpoint: check_signed(checkpoint, run.trust),
    )


def _faculty(
    run: RunContext,
    stage: Stage,
    position: PhasePosition,
    capture: KVCapture,
    timetable: Timetable,
) -> PhaseTeachers | None:
    if not stage.teachers:
        return None
    teachers = run.models.chosen(stage.teachers)
    shares = shares_of(stage.teachers, run.config.teachers)
    train = in_step(stage.phase.train, bool(run.models.sharded))
    return build_phase_teachers(
        replace(stage.phase, train=train),
        registry=run.registry,
        student=capture,
        encode=run.models.encode,
        teachers=teachers,
        shares=shares,
        samples=run.data.calibration,
        progress=run.progress.over,
        answers=run.answers,
        timetable=timetable,
        choosing=replace(
            run.choosing(stage, position),
            score=partial(scores_by_text, run, position, capture),
        ),
    )


def _distiller(
    run: RunContext,
    stage: Stage,
    model: Any,
    capture: KVCapture,
    phase_teachers: PhaseTeachers | None,
    *,
    timetable: Timetable,
) -> Distiller:
    """The student with all that it learns from."""
    phase, teaching, output = stage.phase, None, None
    if phase_teachers is not None:
        teaching = phase_teachers.teaching
        chosen = run.models.chosen(stage.teachers)
        tokenizer = run.models.student_tokenizer
        output = output_plan(phase, run.registry, capture, tokenizer, chosen)
    domains = sorted({sample.domain for sample in run.data.train})
    objectives = build_objectives(phase, run.registry, phase_teachers is not None)
    return Distiller(
        model,
        capture,
        objectives=objectives,
        config=phase.loss,
        teaching=teaching,
        autocast=autocast_of(phase.train),
        health_every=run.config.alarms.health_every,
        output=output,
        head=own_head(phase, capture),
        balance=build_balance(phase, run.registry, objectives),
        timetable=timetable,
        domains=domains,
        selection=build_selection(phase, run.registry, stage.teachers, domains),
    )


def _measure(
    run: RunContext,
    stage: Stage,
    position: PhasePosition,
    capture: KVCapture,
    phase_teachers: PhaseTeachers | None,
) -> dict[str, Any]:
    bpc = evaluate(run, capture, f"measuring {position.arm} · {stage.phase.name}")
    texts = [sample.text for sample in run.data.eval[:16]]
    measured = measure_health(run.models.encode, run.engine.device, capture, texts)
    health = {name: round(value, 4) for name, value in measured.items()}
    line = {"kind": "eval", "step": position.steps, "bpc": bpc, "mean": _mean(bpc)}
    run.metrics.write(
        position.arm, stage.phase.name, {**line, "health": health}, position.offset
    )
    result: dict[str, Any] = {
        "name": stage.phase.name,
        "title": stage.phase.title,
        "steps": position.steps,
        "teachers": list(stage.teachers),
        "bpc": bpc,
        "health": health,
    }
    if phase_teachers is not None:
        maps = {
            name: list(layer_map)
            for name, layer_map in phase_teachers.depth.maps.items()
        }
        result |= {
            "coverage": phase_teachers.report.coverage,
            "fit": phase_teachers.report.fit,
            "layer_map": maps,
        }
    return result


def _save(
    model: Any,
    run: RunContext,
    position: PhasePosition,
    result: Mapping[str, Any],
    moving: Companions | None,
    *,
    exits: Mapping[int, Tensor],
) -> None:
    with atomic_folder(position.folder) as folder:
        run.models.save_student(model, folder / STUDENT, exits=exits)
        if is_transformed(model):
            save_untransformed(run.models, model, folder / UNTRANSFORMED)
        if isinstance(moving, Peers):
            moving.save(folder)
        if "best" in result:
            shutil.copytree(last_folder(position.folder), folder / LAST)
        mark_complete(folder, dict(result))
        sign(folder)
        run.may_write()


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)
