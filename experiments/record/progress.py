"""Progress on anything longer than a moment: bars on a terminal, lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from align.foreign.quote import say, visible
from experiments.record.course import Course, Leg, duration
from experiments.record.stop import RunStopped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

T = TypeVar("T")

Show = Callable[[int, int, str], None]
"""Takes the units done, those of them that an earlier launch did, and what to say."""

FIRST_LINE_SECONDS, LINE_SECONDS = 2.0, 15.0
"""Seconds to the first line, and between two, where the output is no terminal."""


def describe_losses(line: Mapping[str, Any]) -> str:
    """What a metric line of kind ``train`` says on the console."""
    norm = line.get("grad_norm")
    gradient = "" if norm is None else f", gradient {norm:.3g}"
    return f"loss {line['loss']:.4g}{gradient}"


class Work:
    """One piece of work under way; call it with the number of units done so far."""

    def __init__(self, show: Show, leg: Leg | None) -> None:
        """Show it; ``leg`` is its part of a run."""
        self._show, self._leg, self._note, self._begun = show, leg, "", 0

    def start(self, done: int) -> None:
        """Begin with what an earlier launch has done."""
        self._begun = done
        if self._leg is not None:
            self._leg.start(done)

    def note(self, text: str) -> None:
        """Say this beside the numbers from now on."""
        self._note = text

    def __call__(self, done: int) -> None:
        """Show how far it is, and the whole run with it."""
        if self._leg is not None:
            self._leg.advance(done)
        said = [self._note, "" if self._leg is None else self._leg.describe()]
        self._show(done, self._begun, ", ".join(filter(None, said)))


class Progress:
    """Shows how far a piece of work is; silent off the main rank."""

    def __init__(
        self, enabled: bool = True, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Choose bars or lines by whether stderr is a terminal.

        Args:
            enabled: False off the main rank.
            stop: whether somebody asked to stop; :meth:`over` then ends.
        """
        self._enabled, self._stop = enabled, stop
        self._bars = enabled and sys.stderr.isatty()
        self.course: Course | None = None
        """The steps of all arms, where a run trains several pieces."""

    @contextmanager
    def work(
        self, title: str, total: int, leg: tuple[str, int] | None = None
    ) -> Iterator[Work]:
        """Show one piece of work.

        Args:
            title: what is being done.
            total: its units.
            leg: arm and phase of the run's course that this is.

        Yields:
            What to call with the number of units done so far.
        """
        part = self.course.leg(*leg) if self.course and leg else None
        if not self._enabled or total < 1:
            yield Work(lambda done, begun, said: None, part)
        elif self._bars:
            with _bar(title, total) as show:
                yield Work(show, part)
        else:
            yield Work(_lines(title, total), part)

    def over(self, items: Iterable[T], title: str, total: int) -> Iterator[T]:
        """Walk through items, showing how many are done.

        Raises:
            RunStopped: asked to stop, outside of :meth:`to_the_end`.
        """
        with self.work(title, total) as show:
            for done, item in enumerate(items, start=1):
                if self._stop():
                    raise RunStopped(f"{title}: {done - 1} of {total}")
                yield item
                show(done)

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Do not stop inside this block: what was trained is saved at its end."""
        stop, self._stop = self._stop, lambda: False
        try:
            yield
        finally:
            self._stop = stop


@contextmanager
def waiting(title: str, enabled: bool = True) -> Iterator[None]:
    """Say now and then that work goes on whose length nobody knows.

    Quiet where the work is done within :data:`FIRST_LINE_SECONDS`.

    Args:
        title: what is being done.
        enabled: False off the main rank.
    """
    over = threading.Event()
    spoken = False
    started = time.monotonic()

    def speak() -> None:
        nonlocal spoken
        pause = FIRST_LINE_SECONDS
        while not over.wait(pause):
            spoken, pause = True, LINE_SECONDS
            _line(f"{title}, {duration(time.monotonic() - started)}")

    speaker = threading.Thread(target=speak, name="waiting", daemon=True)
    if enabled:
        speaker.start()
    try:
        yield
    finally:
        over.set()
        if enabled:
            speaker.join()
        if spoken:
            _line(f"{title}: ended after {duration(time.monotonic() - started)}")


def _line(text: str) -> None:
    say(text)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Show]:
    from rich.console import Console

    with bars_on(Console(stderr=True)) as bars:
        task = bars.add_task(visible(title), total=total, said="")
        yield lambda done, begun, said: bars.update(
            task, completed=done, said=said and f", {said}"
        )


def bars_on(console: Console) -> Bars:
    """Bars over the whole width; where that is short, what is said last is cut."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.table import Column

    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return Bars(
        TextColumn("{task.description:<20}", markup=False),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left{task.fields[said]}", markup=False, table_column=rest),
        console=console,
        expand=True,
    )


def _lines(title: str, total: int) -> Show:
    started = time.monotonic()
    due = started + FIRST_LINE_SECONDS

    def show(done: int, begun: int, said: str) -> None:
        nonlocal due
        now = time.monotonic()
        if done >= total or now >= due:
            due, spent = now + LINE_SECONDS, now - started
            left = spent / max(done - begun, 1) * (total - done)
            parts = [f"{title}: {done}/{total}", f"{duration(spent)}"]
            parts += [f"{duration(left)} left", *([said] if said else [])]
            _line(", ".join(parts))

    return show
