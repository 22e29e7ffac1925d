"""Whether somebody seeded Python's or NumPy's generator; drawing is not seeding."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_WORDS = 624
"""Of a Mersenne twister's state; they are all made anew when as many were drawn."""
_ROUNDS = 4096
"""How many times they may have been made anew by drawing alone, in one call."""

State = tuple[tuple[int, ...] | bytes, int]
"""The words, and how many of them are drawn."""


def states() -> dict[str, State]:
    """Where the two generators are, by what they are called."""
    python = random.getstate()[1]
    _, words, position, *_ = np.random.get_state(legacy=True)
    return {
        "Python's random seed": (python[:-1], python[-1]),
        "NumPy's random seed": (np.asarray(words).tobytes(), int(position)),
    }


def seeded(before: Mapping[str, State], after: Mapping[str, State]) -> str:
    """Which generator did not get by drawing from where it was to where it is.

    Args:
        before: an earlier :func:`states`.
        after: a later one.

    Returns:
        What it is called; empty where none was seeded.

    Source:
        Both are MT19937 (Matsumoto and Nishimura 1998), whose next state follows from
        the one before.
    """
    return next((x for x in before if not _drawn(before[x], after[x])), "")


def kept() -> Callable[[], None]:
    """Note both generators; the function puts them back there."""
    python, numpy = random.getstate(), np.random.get_state()

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)

    return restore


@contextmanager
def chance(seed: int) -> Iterator[None]:
    """Draw from a seed inside, on the CPU alone; all is as it was afterwards."""
    restore = kept()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would queue the same for every kind of device, with a
        # stack trace each, until one of them is used
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            restore()


def _drawn(before: State, after: State) -> bool:
    if before[0] == after[0]:
        return after[1] >= before[1]
    words, wanted = _numbers(before[0]), _numbers(after[0])
    twister = random.Random()
    twister.setstate((3, (*words, _WORDS), None))
    for _ in range(_ROUNDS):
        twister.getrandbits(32 * _WORDS)
        state: tuple[Any, ...] = twister.getstate()[1]
        if state[:-1] == wanted:
            return True
    return False


def _numbers(words: tuple[int, ...] | bytes) -> tuple[int, ...]:
    if isinstance(words, tuple):
        return words
    return tuple(np.frombuffer(words, np.uint32).tolist())
