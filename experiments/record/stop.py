"""Ask a run to save and leave: TERM, USR1, HUP, QUIT, or the first Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class RunStopped(Exception):
    """Asked to stop; everything is saved, the same command goes on."""


class StopRequest:
    """Set by a signal; read at every optimiser step and every batch measured."""

    def __init__(self, pause_after: int | None = None) -> None:
        """Start unasked.

        Args:
            pause_after: optimiser steps of the run's own chain of phases after which it
                is as if somebody had asked; None: never.
        """
        self.signal: str | None = None
        self.steps = 0
        self._pause_after = pause_after
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def __call__(self) -> bool:
        """Whether somebody asked, or the launcher died and left this process behind."""
        if self._launcher is not None and os.getppid() != self._launcher:
            self.signal = self.signal or "the launcher's death"
        return self.signal is not None

    def pause_if_due(self) -> bool:
        """Ask by itself where ``steps``, which is counted from outside, has come so
        far; whether somebody asked."""
        if self._pause_after is not None and self.steps >= self._pause_after:
            self.signal = self.signal or f"the pause after {self._pause_after} steps"
        return self()

    def set(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler: only note it. A second Ctrl-C interrupts at once."""
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name


@contextmanager
def stop_on_signals(pause_after: int | None = None) -> Iterator[StopRequest]:
    """Listen inside this block; off the main thread nobody can.

    Args:
        pause_after: see :class:`StopRequest`.
    """
    request = StopRequest(pause_after)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    names = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP", "SIGQUIT")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_IGN:
        numbers.remove(hangup)  # under nohup
    before: dict[int, Any] = {n: signal.signal(n, request.set) for n in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
