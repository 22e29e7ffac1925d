"""Which samples a step reads: a pure function of seed and sample number; and what a
model writes in their place."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

import torch

from align.text.documents import TextSample


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return tuple(torch.randperm(count, generator=generator).tolist())


def sample_indices(
    count: int, seed: int, first: int, size: int, rank: int = 0
) -> list[int]:
    """The samples one process reads in one forward pass.

    Samples are numbered through all epochs, each a permutation of its own, so that
    every number of processes reads the same samples in the same order.

    Args:
        count: samples in the training set, >= 1.
        seed: of the run.
        first: global number of the first sample of this pass, over all processes.
        size: samples per process.
        rank: this process.
    """
    start = first + rank * size
    out = []
    for number in range(start, start + size):
        epoch, place = divmod(number, count)
        out.append(_permutation(count, seed, epoch)[place])
    return out


class Writing(Protocol):
    """Writes a buffer of texts again and again, and knows where each is read.

    What it writes, and which text stands in for which, follows from the student, the
    step and the number of the text alone, whichever processes there are.
    """

    @property
    def every(self) -> int:
        """Optimiser steps for which a buffer is read, >= 1."""

    def write(self, step: int) -> dict[str, Any]:
        """Write the buffer that is read from a step on; every process takes part.

        Args:
            step: optimiser steps of the phase behind it, a multiple of ``every``.

        Returns:
            A metrics line on what was written.
        """

    def in_place_of(self, number: int, given: TextSample) -> TextSample:
        """What is read for a text.

        Args:
            number: of the text in the run, see
                :func:`sample_indices`.
            given: what is read for it where nothing else is.
        """

    def kept(self) -> bytes:
        """The buffer, for a checkpoint; the same on every process."""

    def take(self, kept: bytes) -> None:
        """Go on with the buffer of a checkpoint."""


def lives(done: int, steps: int, every: int) -> Iterator[tuple[int, int]]:
    """Stretches of steps that read one buffer each, the first one perhaps in part.

    Args:
        done: optimiser steps of the phase that are behind.
        steps: of the phase.
        every: of a buffer.
    """
    while done < steps:
        end = min(steps, (done // every + 1) * every)
        yield done, end
        done = end
