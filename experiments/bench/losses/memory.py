"""How much memory a step takes beyond its inputs, each step in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

from align.support.process_memory import highest, resident

Prepare = Callable[..., Callable[[], object]]


def extra_bytes(prepare: Prepare, *args: int) -> int:
    """Most memory that a step holds beyond what was there before it.

    Args:
        prepare: makes the inputs and returns the step; importable by its name.
        args: for ``prepare``.

    Returns:
        The largest of three processes: the system takes idle pages back when it likes,
        and a process looks smaller than it is.
    """
    return max(_once(prepare, args) for _ in range(3))


def _once(prepare: Prepare, args: tuple[int, ...]) -> int:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_measure, args=(theirs, prepare, args))
    child.start()
    theirs.close()
    peak: int = ours.recv()
    child.join()
    return peak


def _measure(answer: Connection, prepare: Prepare, args: tuple[int, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    step = prepare(*args)
    torch.ones(64, 64) @ torch.ones(64, 64)  # what the first product loads stays
    before = resident()
    step()
    answer.send(highest() - before)
