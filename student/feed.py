"""What a training loop eats: texts, their tokens, and what the teachers say of them.

Teachers stand still and the order of samples is known, so the next pass is read in
the background while the student learns from this one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from align.text import TextSample
from align.tokens import TokenBatch
from align.view import TeacherView
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
        first = self.first_sample + number * self.batch_size * self.world_size
        count = len(self.samples)
        chosen = sample_indices(count, self.seed, first, self.batch_size, self.rank)
        samples = [self.samples[index] for index in chosen]
        batch = self.encode([sample.text for sample in samples]).to(self.device)
        rows = self._rows(batch, number) if self.rows else None
        views = self.views(batch, rows) if self.views else ()
        return Portion(samples, batch, rows, views)

    def _rows(self, batch: TokenBatch, number: int) -> Tensor:
        """Sample real query positions, (B, R); the same for every arm and resume."""
        generator = torch.Generator().manual_seed(self.seed * 7919 + number)
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
