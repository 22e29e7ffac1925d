"""What is shown while the zoo is built: bars on a terminal, lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS = 15.0
"""Seconds between two lines where the error stream is no terminal."""


@dataclass(slots=True)
class _Model:
    steps: int
    done: int = 0
    state: str = "waits"
    ready: bool = False


class Shown:
    """How far every model is; threads report, the main one speaks."""

    def __init__(self, bars: Progress | None, lines: bool) -> None:
        """Show bars, write lines, or neither."""
        self._bars, self._lines = bars, lines
        self._models: dict[str, _Model] = {}
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._started = self._last = time.monotonic()

    def add(self, name: str, steps: int) -> None:
        """Announce a model that will be trained for so many steps."""
        with self._lock:
            self._models[name] = _Model(max(steps, 1))
        if self._bars is not None:
            task = self._bars.add_task(name, total=max(steps, 1), state="waits")
            self._tasks[name] = task

    def state(self, name: str, state: str, steps_done: int | None = None) -> None:
        """Say what a model is at, and how many steps it has done."""
        with self._lock:
            model = self._models[name]
            model.state = state
            model.done = model.done if steps_done is None else steps_done
        if self._bars is not None:
            self._bars.update(self._tasks[name], completed=model.done, state=state)

    def ready(self, name: str, outcome: str) -> None:
        """Say that a model is there."""
        with self._lock:
            model = self._models[name]
            model.ready = True
        self.state(name, outcome, model.steps)
        self._say(f"zoo: {name} is ready ({outcome})")

    def note(self, sentence: str) -> None:
        """Say something about a model that is not its state."""
        if self._bars is not None:
            self._bars.console.print(f"zoo: {sentence}", markup=False)
        self._say(f"zoo: {sentence}")

    def tick(self) -> None:
        """Write a line if the last is long ago; call it every moment."""
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        with self._lock:
            ready = sum(model.ready for model in self._models.values())
            under_way = [
                f"{name} {model.done}/{model.steps} {model.state}"
                for name, model in self._models.items()
                if not model.ready and model.state != "waits"
            ]
        count = f"{ready} of {len(self._models)} ready"
        seconds = f"{now - self._started:.0f} s"
        self._say("; ".join([f"zoo: {count}, {seconds}", *under_way]))

    def _say(self, text: str) -> None:
        if self._lines:
            print(text, file=sys.stderr, flush=True)


@contextmanager
def shown(enabled: bool) -> Iterator[Shown]:
    """Show a build on the error stream, in the form that suits it."""
    if not enabled or not sys.stderr.isatty():
        yield Shown(None, lines=enabled)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield Shown(bars, lines=False)
