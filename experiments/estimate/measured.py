"""What one training process holds and how fast it is, by some steps of each phase."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from align.support.process_memory import highest, resident
from align.tokens.batch import TokenBatch
from align.views import TeacherView
from experiments.assemble.outputs import output_plan, own_head
from experiments.assemble.precision import autocast_of
from experiments.assemble.teaching import (
    PhaseTeachers,
    build_objectives,
    build_phase_teachers,
)
from experiments.config.tree import PhaseConfig
from experiments.estimate.training import Pace
from experiments.extraction.context import ExtractionContext
from plugins.registry import Registry
from student.config import TrainConfig
from student.distiller import Distiller
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


def measured_training(extraction: ExtractionContext, processes: int = 1) -> Measured:
    """Take some steps of every phase, and see what they need.

    Args:
        extraction: the config's models and text.
        processes: that train together, among which ZeRO divides.
    """
    largest: dict[str, int] = {}
    trained, paces = 0, []
    for index in range(len(extraction.stages)):
        with _lesson(extraction, index) as (distiller, phase_teachers):
            memory = _phase_memory(
                extraction, index, processes, distiller, phase_teachers
            )
            paces.append(_pace(extraction, index, distiller, phase_teachers))
            trained = max(trained, _trained(distiller))
        if sum(memory.values()) > sum(largest.values()):
            largest = memory
    return Measured(largest, trained, paces)


@contextmanager
def _lesson(
    extraction: ExtractionContext, index: int
) -> Iterator[tuple[Distiller, PhaseTeachers]]:
    """A phase's parts for as long as they are looked at."""
    if extraction.stages[index].phase.train.engine == "deepspeed":
        with redirect_stdout(sys.stderr):  # it logs; there may be JSON to come
            import deepspeed  # noqa: F401 - its libraries are part of what is measured
    yield assembled(extraction, index)


def _trained(distiller: Distiller) -> int:
    return sum(p.numel() for p in distiller.parameters() if p.requires_grad)


def _phase_memory(
    extraction: ExtractionContext,
    index: int,
    processes: int,
    distiller: Distiller,
    phase_teachers: PhaseTeachers,
) -> dict[str, int]:
    train = extraction.stages[index].phase.train
    names = extraction.stages[index].teachers
    weights = {n: _bytes(extraction.models.live[n].loaded.model) for n in names}
    teachers = sum(weights.values())
    device = next(distiller.parameters()).device
    longest = extraction.corpus.longest[: train.batch_size]
    batch = extraction.models.encode([s.text for s in longest]).to(device)
    rows = extraction.stages[index].phase.loss.attention_rows
    asked = torch.zeros(len(longest), rows, dtype=torch.int64, device=device)
    views = phase_teachers.panel(batch, asked)
    kv = sum(view.kv.k.nbytes + view.kv.v.nbytes for view in views)
    ahead = kv if train.prefetch else 0
    with growth(device) as steps:
        _some_steps(
            distiller,
            phase_teachers,
            batch=batch,
            views=views,
            rows=asked,
            prefetch=train.prefetch,
        )
    distiller_bytes = _bytes(distiller)
    trained = FLOAT * _trained(distiller)
    stage = train.zero_stage if train.engine == "deepspeed" else 0

    def divided(size: int, least: int) -> int:
        """What is left of a part that ZeRO divides from a stage on."""
        return size // processes if stage >= least else size

    memory = {
        "student, bridge and router": divided(distiller_bytes, 3),
        "gradients": divided(trained, 2),
        "optimiser": divided(moments(train, trained // FLOAT), 1),
        "activations and losses": max(0, steps.most - trained - ahead),
        "teachers' weights": sum(
            size
            for name, size in weights.items()
            if not extraction.config.store.reads(name)
        ),
        "teachers' KV": kv + ahead,
    }
    if stage:
        memory["DeepSpeed's copies"] = zero_copies(trained, processes, device.type)
    if device.type != "cuda":
        rest = steps.before - distiller_bytes - teachers - kv
        memory["Python and libraries"] = max(0, rest)
    return memory


def moments(train: TrainConfig, count: int) -> int:
    """Bytes of an optimiser's state of so many numbers, on the device."""
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


def assembled(
    extraction: ExtractionContext, index: int
) -> tuple[Distiller, PhaseTeachers]:
    """A phase's student and teachers, ready for a step."""
    phase, names = extraction.stages[index].phase, extraction.stages[index].teachers
    device = extraction.models.live[names[0]].capture.device
    student = extraction.models.student(None).to(device)
    if phase.train.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    capture = KVCapture(student)
    teachers = extraction.models.chosen(names)
    phase_teachers = build_phase_teachers(
        phase,
        registry=extraction.registry,
        student=capture,
        encode=extraction.models.encode,
        teachers=teachers,
        shares={name: extraction.config.teachers[name].weight for name in names},
        samples=list(extraction.corpus.probe[: phase.train.calibration_samples]),
        progress=lambda items, title, total: items,
    )
    distiller = Distiller(
        student,
        capture,
        objectives=build_objectives(phase, extraction.registry, True),
        config=phase.loss,
        teaching=phase_teachers.teaching,
        autocast=autocast_of(phase.train),
        output=output_plan(
            phase,
            extraction.registry,
            capture,
            extraction.models.student_tokenizer,
            teachers,
        ),
        head=own_head(phase, capture),
    )
    return distiller, phase_teachers


def _some_steps(
    distiller: Distiller,
    phase_teachers: PhaseTeachers,
    *,
    batch: TokenBatch,
    views: Sequence[TeacherView],
    rows: Tensor,
    prefetch: bool,
) -> None:
    """Two steps as a run takes them, which reads the next batch beside each."""
    with ThreadPoolExecutor(1, "next batch") as pool:
        for _ in range(2):
            following = (
                pool.submit(phase_teachers.panel, batch, rows) if prefetch else None
            )
            _learn(distiller, batch, views, rows, step=0)
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


def _pace(
    extraction: ExtractionContext,
    index: int,
    distiller: Distiller,
    phase_teachers: PhaseTeachers,
) -> Pace:
    """Time passes of a phase, as they come between two outcomes and at one."""
    stage = extraction.stages[index]
    device = next(distiller.parameters()).device
    texts = extraction.corpus.probe[: stage.phase.train.batch_size]
    batch = extraction.models.encode([s.text for s in texts]).to(device)
    count = stage.phase.loss.attention_rows
    rows = torch.zeros(len(texts), count, dtype=torch.int64, device=device)
    alone = _without_teachers(extraction.registry, stage.phase, distiller.student)

    def taught(step: int) -> float:
        return _seconds(
            lambda: _learn(
                distiller, batch, phase_teachers.panel(batch, rows), rows, step
            )
        )

    every = stage.phase.loss.outcome_every
    between = taught(1)
    with_outcomes = between + (taught(0) - between) / every if every else between
    models = extraction.models
    teachers = {n: _bytes(models.live[n].loaded.model) for n in stage.teachers}
    plain = _seconds(lambda: _learn(alone, batch, (), rows, 0))
    return Pace(with_outcomes, plain, teachers)


def _without_teachers(
    registry: Registry, phase: PhaseConfig, student: Any
) -> Distiller:
    """The phase of the arm that learns by next-token loss alone."""
    capture = KVCapture(student)
    return Distiller(
        student,
        capture,
        objectives=build_objectives(phase, registry, False),
        config=phase.loss,
        autocast=autocast_of(phase.train),
        head=own_head(phase, capture),
    )


def _seconds(work: Callable[[], None]) -> float:
    """Of the faster of two passes, as the first may have to find its way."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _bytes(model: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())
