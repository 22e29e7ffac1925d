"""Which samples a step reads: a pure function of seed and sample number."""

from __future__ import annotations

from functools import lru_cache

import torch


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
