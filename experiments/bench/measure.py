"""Paired measurements on one thread, and the table of bars they must keep."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


def one_thread() -> None:
    """Compute on one thread, and reach for no hub; also in processes that are started.

    To be called before anything that starts threads is imported.
    """
    os.environ.update(
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        RAYON_NUM_THREADS="1",
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_OFFLINE="1",
    )


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def paired_ratio(
    candidate: Callable[[], object], baseline: Callable[[], object], rounds: int = 7
) -> float:
    """How many times the baseline's processor time the candidate takes.

    Args:
        candidate: what is measured.
        baseline: what it is measured against.
        rounds: pairs of calls, one right after the other, in alternating order.

    Returns:
        The median of the pairs' ratios, so that a disturbed pair does not count.
    """
    candidate()
    baseline()
    ratios = []
    for turn in range(rounds):
        if turn % 2:
            above, below = seconds(candidate), seconds(baseline)
        else:
            below, above = seconds(baseline), seconds(candidate)
        ratios.append(above / below)
    return statistics.median(ratios)


@dataclass(frozen=True, slots=True)
class Bar:
    """A measured value and the most it may be."""

    name: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit."""
        return self.value <= self.limit


def show(bars: list[Bar]) -> bool:
    """Print bars as a table; True where every one is kept."""
    width = max(len(bar.name) for bar in bars)
    print(f"{'bar':<{width}}   measured      limit")
    for bar in bars:
        verdict = "pass" if bar.passed else "MISS"
        print(f"{bar.name:<{width}} {bar.value:>10.3f} {bar.limit:>10.3f}   {verdict}")
    missed = [bar.name for bar in bars if not bar.passed]
    print(f"{len(bars) - len(missed)} of {len(bars)} bars kept", *missed, sep="; ")
    return not missed
