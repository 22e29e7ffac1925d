"""What one training process holds and how fast it is, by some steps of each phase."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from align.support.process_memory import give_back, highest, resident
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.views import TeacherView, with_kv
from experiments.assemble.checks import timetable_of
from experiments.assemble.outputs import output_plan, own_head
from experiments.assemble.precision import autocast_of
from experiments.assemble.teaching import (
    PhaseTeachers,
    build_balance,
    build_objectives,
    build_phase_teachers,
)
from experiments.config.tree import PhaseConfig
from experiments.estimate.training import Pace
from experiments.estimate.trial import Trial, held_bytes
from experiments.run.context import Stage, phase_seed
from plugins.registry import Registry
from student.config import TrainConfig
from student.distiller import Distiller
from teacher.answers import answer_bytes
from teacher.capture.kv_capture import KVCapture

FLOAT = 4
"""Bytes of a float32: weights, gradients and each of AdamW's two moments."""

_BUCKET = int(5e8)
"""Numbers in DeepSpeed's buffer of gradients (its ``reduce_bucket_size``). Beside it
ZeRO copies a process's part of the weights once and of the gradients twice."""


@dataclass(slots=True)
class Growth:
    """What a piece of work needed on top of what was held."""

    before: int = 0
    """Bytes held when it began; on a GPU those of tensors alone."""
    most: int = 0
    """Bytes more than these at its peak."""


def device_memory() -> int:
    """Bytes the device has."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def growth(device: torch.device) -> Iterator[Growth]:
    """Measure a piece of work; the result is filled in at its end.

    Without a GPU it is the process's resident memory, which Linux alone lets begin
    anew; elsewhere only growth beyond every earlier peak is seen.
    """
    grown = Growth()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        grown.before = torch.cuda.memory_allocated(device)
        yield grown
        grown.most = torch.cuda.max_memory_allocated(device) - grown.before
        return
    grown.before = resident()
    yield grown
    grown.most = max(0, highest() - grown.before)


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


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A phase's student and teachers, ready for a step."""

    distiller: Distiller
    teachers: PhaseTeachers | None
    """None where nobody teaches."""

    def views(self, batch: TokenBatch, rows: Tensor) -> Sequence[TeacherView]:
        """What every teacher says of a batch."""
        return self.teachers.panel(batch, rows) if self.teachers else ()


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
            paces.append(_pace(trial, stage, lesson))
        trained = max(trained, _trained(lesson.distiller))
        then(index, lesson)
        if sum(memory.values()) > sum(largest.values()):
            largest = memory
    return Measured(largest, trained, paces)


def _load_as_a_run_does() -> None:
    """Import what trains, and what draws (some 40 MB), which a run does before it
    trains: both are a part of what is measured."""
    import experiments.run.driver  # noqa: F401
    from align.pictures.visualize import visualize_alignment

    with TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        visualize_alignment(torch.ones(1, 1), ["a"], ["a"], picture)


def _trained(distiller: Distiller) -> int:
    return sum(p.numel() for p in distiller.parameters() if p.requires_grad)


def _phase_memory(
    trial: Trial, stage: Stage, processes: int, lesson: Lesson
) -> dict[str, int]:
    train, distiller = stage.phase.train, lesson.distiller
    weights = trial.weights_of(stage.teachers)
    teachers = sum(weights.values())
    batch, asked = _batch(trial, stage, trial.longest)
    views = lesson.views(batch, asked)
    kv = sum(view.met.k.nbytes + view.met.v.nbytes for view in with_kv(views))
    ahead = kv if train.prefetch else 0
    give_back()  # as a run does when it has calibrated
    with growth(trial.device) as steps:
        _some_steps(lesson, batch=batch, views=views, rows=asked, ahead=train.prefetch)
    distiller_bytes = held_bytes(distiller)
    trained = FLOAT * _trained(distiller)
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


def _batch(
    trial: Trial, stage: Stage, texts: Sequence[TextSample]
) -> tuple[TokenBatch, Tensor]:
    """The first texts as a batch of the phase's size, with rows to compare."""
    chosen = [sample.text for sample in texts[: stage.phase.train.batch_size]]
    batch = trial.models.encode(chosen).to(trial.device)
    rows = stage.phase.loss.attention_rows
    asked = torch.zeros(len(chosen), rows, dtype=torch.int64, device=trial.device)
    return batch, asked


def moments(train: TrainConfig, count: int) -> int:
    """Bytes of an optimiser's state of so many numbers, on the device.

    Of Muon at most: a matrix has one moment, not two.
    """
    if train.offload != "none":
        return 0
    if train.optimizer == "adamw_8bit":
        return 2 * (count + FLOAT * count // 256)  # codes, and a scale for each 256
    return 2 * FLOAT * count


def zero_copies(trained: int, processes: int, device: str) -> int:
    """Bytes of what ZeRO 1 to 3 holds beside parts, for trained bytes in all."""
    bucket = FLOAT * _BUCKET
    if device != "cuda":  # where only what is written to takes memory
        bucket = min(bucket, trained)
    return 3 * trained // processes + bucket


def assembled(trial: Trial, index: int) -> Lesson:
    """A phase's student and teachers, ready for a step."""
    phase, names = trial.stages[index].phase, trial.stages[index].teachers
    student = trial.models.student(None).to(trial.device)
    if phase.train.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    capture = KVCapture(student)
    teachers, known = trial.models.chosen(names), trial.config.teachers
    timetable = timetable_of(phase, trial.registry, phase.train.steps or 1)
    phase_teachers = None
    if names:
        phase_teachers = build_phase_teachers(
            phase,
            registry=trial.registry,
            student=capture,
            encode=trial.models.encode,
            teachers=teachers,
            shares={n: known[n].weight if n in known else 1.0 for n in names},
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
    )
    return Lesson(distiller, phase_teachers)


def _some_steps(
    lesson: Lesson,
    *,
    batch: TokenBatch,
    views: Sequence[TeacherView],
    rows: Tensor,
    ahead: bool,
) -> None:
    """Two steps as a run takes them, which reads the next batch beside each."""
    with ThreadPoolExecutor(1, "next batch") as pool:
        for _ in range(2):
            following = pool.submit(lesson.views, batch, rows) if ahead else None
            _learn(lesson.distiller, batch, views, rows, step=0)
            if following is not None:
                views = following.result()


def _learn(
    distiller: Distiller,
    batch: TokenBatch,
    views: Sequence[TeacherView],
    rows: Tensor,
    step: int,
) -> None:
    """One pass, whose gradients are measured and thrown away."""
    distiller(batch, views, rows, step=step).loss.backward()
    distiller.zero_grad(set_to_none=True)


def _pace(trial: Trial, stage: Stage, lesson: Lesson) -> Pace:
    """Time passes of a phase, as they come between two outcomes and at one."""
    distiller = lesson.distiller
    batch, rows = _batch(trial, stage, trial.usual)
    alone = _without_teachers(trial.registry, stage.phase, distiller.student)

    def taught(step: int) -> float:
        return _seconds(
            lambda: _learn(distiller, batch, lesson.views(batch, rows), rows, step)
        )

    every = stage.phase.loss.outcome_every
    between = taught(1)
    with_outcomes = between + (taught(0) - between) / every if every else between
    plain = _seconds(lambda: _learn(alone, batch, (), rows, 0))
    return Pace(
        with_outcomes,
        plain,
        trial.weights_of(list(trial.models.teachers)),
        stage.teachers,
        asking=_seconds(lambda: lesson.views(batch, rows)),
        answers={view.name: answer_bytes(view) for view in lesson.views(batch, rows)},
    )


def _without_teachers(
    registry: Registry, phase: PhaseConfig, student: Any
) -> Distiller:
    """The phase of the arm that learns by next-token loss alone."""
    capture = KVCapture(student)
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


def _seconds(work: Callable[[], object]) -> float:
    """Of the faster of two passes, as the first may have to find its way."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)
