"""What one training process holds at its peak, from one measured step of each phase."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import torch
from torch import Tensor

from align.process_memory import highest, resident
from align.tokens import TokenBatch
from align.view import TeacherView
from experiments.extraction.bench import Bench
from experiments.outputs import output_plan, own_head
from experiments.precision import autocast_of
from experiments.teaching import Faculty, build_faculty, build_objectives
from student.config import TrainConfig
from student.distiller import Distiller
from teacher.capture import KVCapture

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
    found = Growth()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        found.before = torch.cuda.memory_allocated(device)
        yield found
        found.most = torch.cuda.max_memory_allocated(device) - found.before
        return
    found.before = resident()
    yield found
    found.most = max(0, highest() - found.before)


def training_memory(bench: Bench, processes: int = 1) -> dict[str, int]:
    """Bytes one training process holds at its peak, phase by phase the largest.

    Args:
        bench: the config's models and text.
        processes: that train together, among which ZeRO divides.

    Returns:
        By what they are for. The optimiser's state, and what ZeRO divides, is computed;
        all else is measured on two steps on the longest texts.
    """
    largest: dict[str, int] = {}
    for index in range(len(bench.stages)):
        found = _phase_memory(bench, index, processes)
        if sum(found.values()) > sum(largest.values()):
            largest = found
    return largest


def _phase_memory(bench: Bench, index: int, processes: int) -> dict[str, int]:
    train = bench.stages[index].phase.train
    names = bench.stages[index].teachers
    teachers = sum(_bytes(bench.models.teacher(name)[0].model) for name in names)
    if train.engine == "deepspeed":
        with redirect_stdout(sys.stderr):  # it logs; there may be JSON to come
            import deepspeed  # noqa: F401 - its libraries are part of what is measured
    distiller, faculty = assembled(bench, index)
    device = next(distiller.parameters()).device
    longest = bench.corpus.longest[: train.batch_size]
    batch = bench.models.encode([s.text for s in longest]).to(device)
    rows = bench.stages[index].phase.loss.attention_rows
    asked = torch.zeros(len(longest), rows, dtype=torch.int64, device=device)
    views = faculty.panel(batch, asked)
    kv = sum(view.kv.k.nbytes + view.kv.v.nbytes for view in views)
    ahead = kv if train.prefetch else 0
    with growth(device) as steps:
        _some_steps(distiller, faculty, batch, views, asked, train.prefetch)
    own = _bytes(distiller)
    trained = FLOAT * sum(p.numel() for p in distiller.parameters() if p.requires_grad)
    stage = train.zero_stage if train.engine == "deepspeed" else 0

    def divided(size: int, least: int) -> int:
        """What is left of a part that ZeRO divides from a stage on."""
        return size // processes if stage >= least else size

    found = {
        "student, bridge and router": divided(own, 3),
        "gradients": divided(trained, 2),
        "optimiser": divided(moments(train, trained // FLOAT), 1),
        "activations and losses": max(0, steps.most - trained - ahead),
        "teachers' weights": 0 if bench.config.store.read else teachers,
        "teachers' KV": kv + ahead,
    }
    if stage:
        found["DeepSpeed's copies"] = zero_copies(trained, processes, device.type)
    if device.type != "cuda":
        rest = steps.before - own - teachers - kv
        found["Python and libraries"] = max(0, rest)
    return found


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


def assembled(bench: Bench, index: int) -> tuple[Distiller, Faculty]:
    """A phase's student and teachers, ready for a step."""
    phase, names = bench.stages[index].phase, bench.stages[index].teachers
    student = bench.models.student(None).to(bench.models.teacher(names[0])[1].device)
    if phase.train.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    capture = KVCapture(student)
    teachers = {name: bench.models.teacher(name) for name in names}
    faculty = build_faculty(
        phase,
        bench.registry,
        capture,
        bench.models.encode,
        teachers,
        {name: bench.config.teachers[name].weight for name in names},
        list(bench.corpus.probe[: phase.train.calibration_samples]),
        lambda items, title, total: items,
    )
    distiller = Distiller(
        student,
        capture,
        build_objectives(phase, bench.registry, True),
        phase.loss,
        faculty.teaching,
        autocast_of(phase.train),
        output=output_plan(
            phase, bench.registry, capture, bench.models.student_tokenizer, teachers
        ),
        head=own_head(phase, capture),
    )
    return distiller, faculty


def _some_steps(
    distiller: Distiller,
    faculty: Faculty,
    batch: TokenBatch,
    views: Sequence[TeacherView],
    rows: Tensor,
    prefetch: bool,
) -> None:
    """Two steps as a run takes them, which reads the next batch beside each."""
    with ThreadPoolExecutor(1, "next batch") as pool:
        for _ in range(2):
            following = pool.submit(faculty.panel, batch, rows) if prefetch else None
            distiller(batch, views, rows, step=0).loss.backward()
            distiller.zero_grad(set_to_none=True)
            if following is not None:
                views = following.result()


def _bytes(model: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())
