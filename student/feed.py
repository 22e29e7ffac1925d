"""What a training loop eats: texts, their tokens, and what the teachers say of them.

Teachers stand still and the order of samples is known, so the next pass is read in
the background while the student learns from this one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from align.stopwatch import Stopwatch, part
from align.text import TextSample
from align.tokens import TokenBatch
from align.view import NonFiniteTeacherError, TeacherView
from student.data_order import sample_indices
from student.evaluate import Encode


class Views(Protocol):
    """Runs the teachers, live or stored, on one batch."""

    def __call__(
        self, batch: TokenBatch, rows: Tensor | None = None
    ) -> Sequence[TeacherView]:
        """One view per teacher, in the bridge's order."""


@dataclass(frozen=True, slots=True, eq=False)
class Portion:
    """One forward pass's food."""

    samples: Sequence[TextSample]
    """This process's texts."""
    batch: TokenBatch
    """The student's tokens, (B, T)."""
    rows: Tensor | None
    """(B, R) int64 query positions, where a term compares some."""
    views: Sequence[TeacherView]
    """One per teacher; empty without teachers."""
    problem: NonFiniteTeacherError | None = None
    """A teacher that gave nothing to learn from; then there are no views."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What making it took, by what was done."""


@dataclass(frozen=True, slots=True)
class Kitchen:
    """Makes the portion of any pass; a pure function of its number."""

    samples: Sequence[TextSample]
    encode: Encode
    views: Views | None
    seed: int
    rows: int
    """Query positions per sample; 0 for none."""
    batch_size: int
    first_sample: int
    device: torch.device
    rank: int
    world_size: int

    def portion(self, number: int) -> Portion:
        """Read one forward pass, counted from 0 within the phase."""
        watch = Stopwatch(self.device)
        with watch.listening():
            samples, batch, rows = self._texts(number)
            views, problem = self._views(batch, rows)
        return Portion(samples, batch, rows, views, problem, watch.take())

    def _texts(self, number: int) -> tuple[list[TextSample], TokenBatch, Tensor | None]:
        first = self.first_sample + number * self.batch_size * self.world_size
        count = len(self.samples)
        with part("data"):
            chosen = sample_indices(count, self.seed, first, self.batch_size, self.rank)
            samples = [self.samples[index] for index in chosen]
            batch = self.encode([sample.text for sample in samples]).to(self.device)
            return samples, batch, self._rows(batch, number) if self.rows else None

    def _views(
        self, batch: TokenBatch, rows: Tensor | None
    ) -> tuple[Sequence[TeacherView], NonFiniteTeacherError | None]:
        if self.views is None:
            return (), None
        try:
            return self.views(batch, rows), None
        except NonFiniteTeacherError as error:  # the other processes must hear of it
            return (), error

    def _rows(self, batch: TokenBatch, number: int) -> Tensor:
        """Sample real query positions, (B, R); the same for every arm and resume."""
        # One draw for each forward pass of all processes, however many share them.
        everywhere = number * self.world_size + self.rank
        generator = torch.Generator().manual_seed(self.seed * 7919 + everywhere)
        shape = (batch.ids.shape[0], self.rows)
        length = batch.mask.sum(1, keepdim=True).cpu()
        drawn = torch.rand(shape, generator=generator) * length
        return drawn.long().to(batch.ids.device)


def serve(
    portion: Callable[[int], Portion], first: int, last: int, ahead: bool
) -> Generator[Portion, None, None]:
    """Yield the portions of passes ``first`` to ``last - 1`` in order.

    Args:
        portion: makes one.
        first: first pass.
        last: one past the last pass.
        ahead: make the next one in a background thread meanwhile.
    """
    if not ahead:
        yield from map(portion, range(first, last))
        return
    # A new thread starts with PyTorch's own number of threads, not with ours.
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(
        1, "teachers", initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        coming: Future[Portion] | None = None
        for number in range(first, last):
            now = coming or pool.submit(portion, number)
            made = now.result()
            coming = pool.submit(portion, number + 1) if number + 1 < last else None
            yield made
