"""Which samples a step reads, and which pass: a pure function of seed and sample
number; and what a model writes in their place."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from align.support.stopwatch import part
from align.text.documents import TextSample

T = TypeVar("T")


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


_CHOICES = 512
"""Places between the texts of a step where a pass may end, at most."""


def deal(lengths: Sequence[int], passes: int, ranks: int, most: int) -> list[list[int]]:
    """Deal a step's texts to its passes by length, so that little is padding.

    Which texts share a pass changes nothing that a step learns, since losses are means
    over the step; what a pass costs is its texts times the longest one.

    Args:
        lengths: tokens of each text of the step.
        passes: of one process.
        ranks: processes; they read like much in each pass.
        most: texts in a pass if all were as long as the longest, so that no pass is
            larger than it may be: passes * ranks * most texts at least.

    Returns:
        Places in ``lengths``, each once: of pass 0 for every rank, of pass 1, and so
        on. No list is empty.

    Source:
        The cheapest partition of the sorted lengths into runs, by dynamic programming
        over the number of runs (Fisher, 1958). Departure: a step of more than some
        hundred texts is cut between stretches of several, and into equal parts where
        no such cuts keep every pass small enough.
    """
    runs = passes * ranks
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    atom = max(1, min(most, len(order) // max(_CHOICES, runs)))
    ends = np.array([*range(0, len(order), atom), len(order)])
    longest = np.array([max(1, lengths[order[begin]]) for begin in ends[:-1]], float)
    # cost[i, j]: padded tokens of a pass from end i to end j, infinite where too many
    cost = (ends[None, :] - ends[:-1, None]) * longest[:, None]
    cost[(cost <= 0) | (cost > most * longest[0])] = np.inf
    best, chosen = cost[0], []
    for _ in range(runs - 1):
        total = best[:-1, None] + cost
        chosen.append(total.argmin(0))
        best = total.min(0)
    if not np.isfinite(best[-1]):  # no stretches of this size fill the passes
        parts = np.array_split(order, runs)
        return [part.tolist() for part in parts]
    at, cuts = len(ends) - 1, []
    for begins in reversed(chosen):
        cuts.append(at)
        at = int(begins[at])
    stops = [int(ends[cut]) for cut in (at, *reversed(cuts))]
    return [order[a:b] for a, b in zip([0, *stops[:-1]], stops, strict=True)]


class Writing(Protocol):
    """Writes a buffer of texts again and again, and knows where each is read.

    What it writes, and which text stands in for which, follows from the student, the
    step and the number of the text alone, whichever processes there are.
    """

    @property
    def every(self) -> int:
        """Optimiser steps for which a buffer is read, >= 1."""

    @property
    def of_student(self) -> bool:
        """Whether the model that is trained writes."""

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


class Ordering(Protocol):
    """Knows which texts are read, where a curriculum says so.

    Which text has which number follows from the phase, its scores and the number alone,
    whichever processes there are.
    """

    @property
    def every(self) -> int:
        """Optimiser steps after which texts are scored anew; 0: never."""

    def at(self, step: int) -> dict[str, Any]:
        """Have the order from a step on; every process takes part.

        Args:
            step: optimiser steps of the phase behind it.

        Returns:
            A metrics line on scores that hold from there on; empty where older ones do.
        """

    def forget(self, done: int) -> None:
        """Let go of what belongs to steps after so many; they will be taken again."""

    def indices(self, numbers: Sequence[int]) -> list[int]:
        """The samples with these numbers in the run, see :func:`sample_indices`."""


def lives(done: int, steps: int, *every: int) -> Iterator[tuple[int, int]]:
    """Stretches of steps that read one buffer in one order each, the first one perhaps
    in part.

    Args:
        done: optimiser steps of the phase that are behind.
        steps: of the phase.
        every: steps of a buffer, and of an order; 0: of the whole phase.
    """
    while done < steps:
        ends = [(done // each + 1) * each for each in every if each]
        end = min([steps, *ends])
        yield done, end
        done = end


Between = Callable[[int, int], Iterator[T]]
"""The batches from one optimiser step up to another."""


def by_stretches(
    steps: range,
    between: Between[T],
    writing: Writing | None,
    order: Ordering | None,
    log: Callable[[dict[str, Any]], None],
    *,
    whole: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Generator[T, None, None]:
    """The batches of some steps of a phase; none is read ahead of a buffer that the
    student is yet to write, or of an order for which it is yet to be asked.

    Args:
        steps: of the phase, those that are to be done.
        between: makes batches.
        writing: stands in for some texts.
        order: says which are read.
        log: takes metrics lines.
        whole: has all weights of the student on every process meanwhile.
    """
    every = [0 if each is None else each.every for each in (writing, order)]
    if order is not None:
        order.forget(steps.start)
    for first, last in lives(steps.start, steps.stop, *every):
        lines = {}
        if order is not None:
            with part("scored"):
                lines["curriculum"] = order.at(first)
        # In the midst of a buffer a checkpoint has brought it.
        if writing is not None and first % writing.every == 0:
            with part("written"), whole() if writing.of_student else nullcontext():
                lines["written"] = writing.write(first)
        for kind, line in lines.items():
            if line:
                log({"kind": kind, "step": first + 1, **line})
        yield from between(first, last)
