"""Progress on anything longer than a moment: bars on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

LINE_SECONDS = 15.0
"""Seconds between two lines where the output is no terminal."""


class Progress:
    """Shows how far a piece of work is; silent off the main rank."""

    def __init__(self, enabled: bool = True) -> None:
        """Choose bars or lines by whether stderr is a terminal."""
        self._enabled = enabled
        self._bars = enabled and sys.stderr.isatty()

    @contextmanager
    def work(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show one piece of work.

        Args:
            title: what is being done.
            total: its units.

        Yields:
            A function to call with the number of units done so far.
        """
        if not self._enabled or total < 1:
            yield lambda done: None
        elif self._bars:
            yield from self._bar(title, total)
        else:
            yield _lines(title, total)

    def over(self, items: Iterable[T], title: str, total: int) -> Iterator[T]:
        """Walk through items, showing how many are done."""
        with self.work(title, total) as show:
            for done, item in enumerate(items, start=1):
                yield item
                show(done)

    def _bar(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description:<44}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task(title, total=total)
            yield lambda done: bars.update(task, completed=done)


def _lines(title: str, total: int) -> Callable[[int], None]:
    started = last = time.monotonic()

    def show(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= LINE_SECONDS:
            last, spent = now, now - started
            left = spent / max(done, 1) * (total - done)
            print(
                f"{title}: {done}/{total}, {spent:.0f} s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    return show
