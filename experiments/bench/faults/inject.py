"""Break a run on purpose: a process, at a point, the n-th time it comes there.

    python -m experiments.bench.faults.inject kill@write:rank=1:at=2 train my.yaml …

A fault is ACTION@POINT, with ``rank`` (0) and ``at`` (1) where they are not the first.
It happens once: a file beside the run remembers. What follows the faults are the words
of ``mtkd``.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

POINTS = {
    "step": ("student.loop.trainer:_Loop.step", "before"),
    "save": ("student.loop.phase_checkpoint:_share", "before"),
    "write": ("student.loop.phase_checkpoint:_write", "after"),
    "marker": ("student.loop.phase_checkpoint:mark_complete", "after"),
    "saved": ("student.loop.phase_checkpoint:_finish", "after"),
    "collective": ("student.loop.engine:Engine.any", "before"),
    "teacher": ("teacher.panel:TeacherPanel.__call__", "before"),
    "export": ("student.checkpoint:make_readable", "before"),
    "file": ("pathlib:Path.replace", "before"),
    "measured": ("experiments.run.phase:_measure", "after"),
}
"""Where a fault can strike, and on which side of the function there."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong once."""

    action: str
    point: str
    rank: int = 0
    at: int = 1

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``ACTION@POINT[:rank=R][:at=N]``.

        Raises:
            ValueError: no such action or point, or a setting that is none.
        """
        head, *rest = text.split(":")
        action, _, point = head.partition("@")
        if action not in ACTIONS or point not in POINTS:
            raise ValueError(
                f"fault {text!r}; give ACTION@POINT with an action of "
                f"{', '.join(ACTIONS)} and a point of {', '.join(POINTS)}"
            )
        settings = dict(part.split("=", 1) for part in rest)
        if not settings.keys() <= {"rank", "at"}:
            raise ValueError(f"fault {text!r}; after the point give rank=R and at=N")
        return cls(action, point, **{k: int(v) for k, v in settings.items()})


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_all() -> None:
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _term() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _hang() -> None:
    time.sleep(10_000)


def _full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _sick() -> None:
    from align.views import NonFiniteTeacherError

    raise NonFiniteTeacherError("gpt2-prose", "teacher 'gpt2-prose' was made sick")


ACTIONS: dict[str, Callable[[], None]] = {
    "kill": _kill,
    "killall": _kill_all,
    "term": _term,
    "hang": _hang,
    "full": _full,
    "sick": _sick,
}


def arm(fault: Fault, done: Path) -> None:
    """Wrap the function at the fault's point.

    Args:
        fault: what goes wrong.
        done: file that remembers that it did.
    """
    if int(os.environ.get("RANK", "0")) != fault.rank or done.exists():
        return
    owner, name, side = _find(fault.point)
    function = getattr(owner, name)
    calls = 0

    def strike() -> None:
        nonlocal calls
        calls += 1
        if calls == fault.at:
            done.touch()
            print(f"fault: {fault}", file=sys.stderr, flush=True)
            ACTIONS[fault.action]()

    @wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        if side == "before":
            strike()
        result = function(*args, **options)
        if side == "after":
            strike()
        return result

    setattr(owner, name, wrapped)


def _find(point: str) -> tuple[Any, str, str]:
    import importlib

    path, side = POINTS[point]
    module, _, inside = path.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = inside.split(".")
    for cls in classes:
        owner = getattr(owner, cls)
    return owner, name, side


def main(words: list[str]) -> int:
    """Arm the faults and run the command."""
    from experiments.cli import main as command

    while words and "@" in words[0]:
        text, memory = words.pop(0), Path(os.environ["MTKD_FAULTS"])
        arm(Fault.parse(text), memory / text.replace(":", "_"))
    return command(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
