"""Run a command apart from this process, which survives whatever becomes of it."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from align.support.children import wait_for

PROCESSOR_SECONDS = 120
WALL_SECONDS = 600
MORE_MEMORY = 6 * 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a command ended."""

    code: int
    """Its exit code; negative: the signal that ended it."""
    out: str
    err: str
    seconds: float
    """Of the processor."""


def run_apart(action: Callable[[], int], scratch: Path) -> Ending:
    """Fork, run, and wait; what hangs or swells is ended.

    Args:
        action: gives the exit code; what it raises is shown, with 1.
        scratch: a folder for what it prints.
    """
    out, err = scratch / "out.txt", scratch / "err.txt"
    began = _spent()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(action, out, err)
    code = wait_for(child, WALL_SECONDS, every=0.005)
    return Ending(
        code=-signal.SIGALRM if code is None else code,
        out=out.read_text(encoding="utf-8", errors="replace"),
        err=err.read_text(encoding="utf-8", errors="replace"),
        seconds=_spent() - began,
    )


def run_imported(action: Callable[[], int], scratch: Path) -> Ending:
    """The same, and import what the action has: the next one starts with it."""
    names = scratch / "modules.json"

    def listed() -> int:
        code = action()
        names.write_text(json.dumps(sorted(sys.modules)), encoding="utf-8")
        return code

    names.unlink(missing_ok=True)
    ending = run_apart(listed, scratch)
    if names.exists():
        for module in json.loads(names.read_text(encoding="utf-8")):
            with suppress(Exception):  # such as what a library half removed
                importlib.import_module(module)
    return ending


def _be_child(action: Callable[[], int], out: Path, err: Path) -> NoReturn:
    code = 1
    try:
        _bound()
        for number, path in ((1, out), (2, err)):
            place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(place, number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        code = action()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _bound() -> None:
    """Let no damaged size or loop take the machine."""
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
