"""What one training process holds and how fast it is, by some steps of each phase."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from align.support.process_memory import give_back
from align.views import with_kv
from experiments.assemble.checks import timetable_of
from experiments.assemble.outputs import output_plan, own_head
from experiments.assemble.precision import autocast_of
from experiments.assemble.selecting.selectors import build_selection
from experiments.assemble.teaching import (
    build_balance,
    build_objectives,
    build_phase_teachers,
)
from experiments.choosing.weigher import shares_of
from experiments.config.tree import PhaseConfig
from experiments.estimate.beside import Beside, measured_beside
from experiments.estimate.steps import (
    FLOAT,
    Lesson,
    batch_of,
    growth,
    learn,
    moments,
    seconds_of,
    some_steps,
    trained_numbers,
    zero_copies,
)
from experiments.estimate.training import Pace
from experiments.estimate.trial import Trial, held_bytes
from experiments.making.transforms import transformer_of
from experiments.run.context import Stage, phase_seed
from plugins.registry import Registry
from student.distiller import Distiller
from student.transforms import is_transformed
from teacher.answers import answer_bytes
from teacher.capture.pair_capture import capture_of


@dataclass(frozen=True, slots=True)
class Measured:
    """What some steps of every phase showed."""

    memory: dict[str, int]
    """Bytes one training process holds at its peak in the largest phase, by what they
    are for. The optimiser's state, and what ZeRO divides, is computed; all else is
    measured on two steps on the longest texts."""
    trained: int
    """Numbers that the phase with most of them trains."""
    paces: list[Pace]
    """Of each phase, on texts of the usual length."""
    transformed: Sequence[str] = ()
    """A sentence on each transform of each phase."""


Look = Callable[[int, Lesson], None]
"""Sees a phase by its number."""


def measured_training(
    trial: Trial, processes: int = 1, then: Look = lambda index, lesson: None
) -> Measured:
    """Take some steps of every phase, and see what they need.

    Args:
        trial: the config's models and texts.
        processes: that train together, among which ZeRO divides.
        then: shown every phase when it is measured. What was drawn at random for
            measuring does not change what is drawn there.
    """
    largest: dict[str, int] = {}
    trained, paces = 0, []
    transformed: list[str] = []
    if trial.device.type != "cuda":  # on one, what libraries take is not counted
        _load_as_a_run_does()
    for index, stage in enumerate(trial.stages):
        if stage.phase.train.engine == "deepspeed":
            with redirect_stdout(sys.stderr):  # it logs; there may be JSON to come
                import deepspeed  # noqa: F401 - a part of what is measured
        torch.manual_seed(phase_seed(trial.config.run.seed, index))
        lesson = assembled(trial, index)
        with torch.random.fork_rng():
            memory = _phase_memory(trial, stage, processes, lesson)
            beside = measured_beside(trial, stage, lesson, processes)
            memory |= beside.lines(memory["activations and losses"])
            paces.append(_pace(trial, stage, lesson, beside))
        if lesson.transforms is not None:
            lesson.transforms.at(0)  # it was measured at the strength in the end
            lines = lesson.transforms.lines.items()
            transformed += [f"phase {stage.phase.name}: {n}: {t}" for n, t in lines]
        trained = max(trained, trained_numbers(lesson.distiller))
        then(index, lesson)
        if sum(memory.values()) > sum(largest.values()):
            largest = memory
    return Measured(largest, trained, paces, transformed)


def _load_as_a_run_does() -> None:
    """Import what trains, and what draws (some 40 MB), which a run does before it
    trains: both are a part of what is measured."""
    import experiments.run.driver  # noqa: F401
    from align.pictures.visualize import visualize_alignment

    with TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        visualize_alignment(torch.ones(1, 1), ["a"], ["a"], picture)


def _phase_memory(
    trial: Trial, stage: Stage, processes: int, lesson: Lesson
) -> dict[str, int]:
    train, distiller = stage.phase.train, lesson.distiller
    weights = trial.weights_of(stage.teachers)
    teachers = sum(weights.values())
    encode, place = trial.models.encode, trial.device
    batch, asked = batch_of(stage.phase, encode, trial.longest, place)
    views = lesson.views(batch, asked)
    kv = sum(view.met.k.nbytes + view.met.v.nbytes for view in with_kv(views))
    ahead = kv if train.prefetch else 0
    give_back()  # as a run does when it has calibrated
    with growth(trial.device) as steps:
        some_steps(lesson, batch=batch, views=views, rows=asked, ahead=train.prefetch)
    distiller_bytes = held_bytes(distiller)
    trained = FLOAT * trained_numbers(distiller)
    zero = train.zero_stage if train.engine == "deepspeed" else 0

    def divided(size: int, least: int) -> int:
        """What is left of a part that ZeRO divides from a stage on."""
        return size // processes if zero >= least else size

    memory = {
        "student, bridge and router": divided(distiller_bytes, 3),
        "gradients": divided(trained, 2),
        "optimiser": divided(moments(train, trained // FLOAT), 1),
        "activations and losses": max(0, steps.most - trained - ahead),
        "teachers' weights": sum(
            size for name, size in weights.items() if not trial.config.store.reads(name)
        ),
        "teachers' KV": kv + ahead,
    }
    if train.stage_of_deepspeed:
        memory["DeepSpeed's copies"] = zero_copies(
            trained, processes, trial.device.type
        )
    if trial.device.type != "cuda":
        rest = steps.before - distiller_bytes - teachers - kv
        memory["Python and libraries"] = max(0, rest)
    return memory


def assembled(trial: Trial, index: int) -> Lesson:
    """A phase's student and teachers, ready for a step."""
    phase, names = trial.stages[index].phase, trial.stages[index].teachers
    student = trial.models.student(None).to(trial.device)
    if phase.train.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    capture = capture_of(student)
    teachers, known = trial.models.chosen(names), trial.config.teachers
    timetable = timetable_of(phase, trial.registry, phase.train.steps or 1)
    put_on = transformer_of(phase, trial.registry)
    transforms = None if put_on is None else put_on(student)
    phase_teachers = None
    if names:
        phase_teachers = build_phase_teachers(
            phase,
            registry=trial.registry,
            student=capture,
            encode=trial.models.encode,
            teachers=teachers,
            shares=shares_of(names, known),
            samples=trial.calibration,
            progress=lambda items, title, total: items,
            timetable=timetable,
        )
    objectives = build_objectives(phase, trial.registry, bool(names))
    distiller = Distiller(
        student,
        capture,
        objectives=objectives,
        config=phase.loss,
        teaching=phase_teachers.teaching if phase_teachers else None,
        autocast=autocast_of(phase.train),
        output=output_plan(
            phase,
            trial.registry,
            capture,
            trial.models.student_tokenizer,
            teachers,
        )
        if names
        else None,
        head=own_head(phase, capture),
        balance=build_balance(phase, trial.registry, objectives),
        timetable=timetable,
        selection=build_selection(phase, trial.registry, names, ()),
    )
    return Lesson(distiller, phase_teachers, transforms)


def _pace(trial: Trial, stage: Stage, lesson: Lesson, beside: Beside) -> Pace:
    """Time passes of a phase, as they come between two outcomes and at one."""
    distiller = lesson.distiller
    encode = trial.models.encode
    batch, rows = batch_of(stage.phase, encode, trial.usual, trial.device)
    alone = _without_teachers(trial.registry, stage.phase, distiller.student)

    def taught(step: int) -> float:
        return seconds_of(
            lambda: learn(distiller, batch, lesson.views(batch, rows), rows, step)
        )

    every = stage.phase.loss.outcome_every
    between = taught(1)
    with_outcomes = between + (taught(0) - between) / every if every else between
    plain = seconds_of(lambda: learn(alone, batch, (), rows, 0))
    return Pace(
        with_outcomes,
        plain,
        trial.weights_of(list(trial.models.teachers)),
        stage.teachers,
        asking=seconds_of(lambda: lesson.views(batch, rows)),
        answers={view.name: answer_bytes(view) for view in lesson.views(batch, rows)},
        peers=beside.peers,
        writing=beside.writing,
        transformed=is_transformed(distiller.student),
    )


def _without_teachers(
    registry: Registry, phase: PhaseConfig, student: Any
) -> Distiller:
    """The phase of the arm that learns by next-token loss alone."""
    capture = capture_of(student)
    objectives = build_objectives(phase, registry, False)
    return Distiller(
        student,
        capture,
        objectives=objectives,
        config=phase.loss,
        autocast=autocast_of(phase.train),
        head=own_head(phase, capture),
        balance=build_balance(phase, registry, objectives),
        timetable=timetable_of(phase, registry, phase.train.steps or 1),
    )
