"""Some steps of a student, what they hold and how long they take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from align.support.process_memory import highest, resident
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.views import TeacherView
from experiments.assemble.data import Encoder
from experiments.assemble.teaching import PhaseTeachers
from experiments.config.tree import PhaseConfig
from student.config import TrainConfig
from student.distiller import Distiller
from student.transforms import Transforms

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


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A phase's student and teachers, ready for a step."""

    distiller: Distiller
    teachers: PhaseTeachers | None
    """None where nobody teaches."""
    transforms: Transforms | None = None
    """What the student computes by in place of its weights; None: by these."""

    def views(self, batch: TokenBatch, rows: Tensor) -> Sequence[TeacherView]:
        """What every teacher says of a batch."""
        return self.teachers.panel(batch, rows) if self.teachers else ()


def trained_numbers(distiller: Distiller) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in distiller.parameters() if p.requires_grad)


def batch_of(
    phase: PhaseConfig,
    encode: Encoder,
    texts: Sequence[TextSample],
    device: torch.device,
) -> tuple[TokenBatch, Tensor]:
    """The first texts as a batch of the phase's size, with rows to compare."""
    chosen = [sample.text for sample in texts[: phase.train.batch_size]]
    rows = phase.loss.attention_rows
    asked = torch.zeros(len(chosen), rows, dtype=torch.int64, device=device)
    return encode(chosen).to(device), asked


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


def some_steps(
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
            learn(lesson.distiller, batch, views, rows, step=0)
            if following is not None:
                views = following.result()


def learn(
    distiller: Distiller,
    batch: TokenBatch,
    views: Sequence[TeacherView],
    rows: Tensor,
    step: int,
) -> None:
    """One pass, whose gradients are measured and thrown away."""
    distiller(batch, views, rows, step=step).loss.backward()
    distiller.zero_grad(set_to_none=True)


def seconds_of(work: Callable[[], object]) -> float:
    """Of the faster of two passes, as the first may have to find its way."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)
