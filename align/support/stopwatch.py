"""Where the time of a step goes, by the names that the code gives its stretches.

``with part("align"):`` names a stretch; it costs next to nothing where nobody
listens. What is named inside another stretch counts as its own alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch


class Stopwatch:
    """Seconds by name, of one thread at a time."""

    def __init__(self, device: torch.device | None = None) -> None:
        """Listen to nothing yet.

        Args:
            device: a GPU is waited for where a stretch ends, or its work would count
                for whoever next needs a result.
        """
        self._gpu = device if device is not None and device.type == "cuda" else None
        self._seconds: dict[str, float] = {}
        self._inside: list[float] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count what is named inside this block, in this thread."""
        token = _LISTENER.set(self)
        try:
            yield
        finally:
            _LISTENER.reset(token)

    def take(self) -> dict[str, float]:
        """Seconds by name since the last call."""
        seconds, self._seconds = self._seconds, {}
        return seconds

    @contextmanager
    def count(self, name: str) -> Iterator[None]:
        """Count this block under a name."""
        start = self._now()
        self._inside.append(0.0)
        try:
            yield
        finally:
            elapsed = self._now() - start
            own_seconds = elapsed - self._inside.pop()
            self._seconds[name] = self._seconds.get(name, 0.0) + own_seconds
            if self._inside:
                self._inside[-1] += elapsed

    def _now(self) -> float:
        if self._gpu is not None:  # a thread's current one may be another
            torch.cuda.synchronize(self._gpu)
        return time.perf_counter()


_LISTENER: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Name what this block does, for whoever listens."""
    watch = _LISTENER.get()
    if watch is None:
        yield
        return
    with watch.count(name):
        yield


@contextmanager
def whole(name: str) -> Iterator[None]:
    """The same of a block in which nothing else is told apart."""
    with part(name):
        token = _LISTENER.set(None)
        try:
            yield
        finally:
            _LISTENER.reset(token)
