"""How much memory a step takes beyond its inputs, each step in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

Prepare = Callable[..., Callable[[], object]]


def extra_bytes(prepare: Prepare, *args: int) -> int:
    """Most memory that a step holds beyond what was there before it.

    Args:
        prepare: makes the inputs and returns the step; importable by its name.
        args: for ``prepare``.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_measure, args=(theirs, prepare, args))
    child.start()
    theirs.close()
    found: int = ours.recv()
    child.join()
    return found


def _measure(answer: Connection, prepare: Prepare, args: tuple[int, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    step = prepare(*args)
    torch.ones(64, 64) @ torch.ones(64, 64)  # what the first product loads stays
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now
    before = _status("VmRSS")
    step()
    answer.send(_status("VmHWM") - before)


def _status(field: str) -> int:
    """Bytes of one line of Linux's account of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; memory needs Linux")
