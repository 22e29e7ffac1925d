"""Output that work does not depend on: who reads it may leave before it is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

UNREAD = 141
"""Exit code of a command that only shows something to a reader who left, as a shell
gives it to a process that SIGPIPE ends."""


class LastingStream:
    """A text stream that loses what nobody takes, in place of an error.

    A closed pipe, a terminal that is gone, a log file on a full disk: from the first
    such write on, the descriptor leads nowhere, for whoever else writes to it.
    """

    def __init__(self, stream: Any, note: str = "") -> None:
        """Write to ``stream``; once that fails, say ``note`` on stderr."""
        self._stream = stream
        self._note = note

    def write(self, text: str) -> int:
        """Write, or lose it; gives the characters taken."""
        try:
            return int(self._stream.write(text))
        except OSError:
            self._lose()
            return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each, or lose it."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what is buffered, or lose it."""
        try:
            self._stream.flush()
        except OSError:
            self._lose()

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's own."""
        return getattr(self._stream, name)

    def _lose(self) -> None:
        lead_nowhere(self._stream)
        note, self._note = self._note, ""
        if note:
            print(note, file=sys.stderr, flush=True)


def lead_nowhere(stream: Any) -> None:
    """Point a stream's descriptor at the null device, its buffer included."""
    try:
        place = stream.fileno()
    except (OSError, ValueError):  # a stream without one, such as a test's
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, place)
    os.close(null)
    stream.flush()


@contextmanager
def lasting_output(work: str) -> Iterator[None]:
    """Go on with work whose output nobody takes any more.

    Args:
        work: what goes on, to be named on stderr where that is still read.
    """
    before = sys.stdout, sys.stderr
    note = f"mtkd: nobody reads the standard output any more; {work} goes on"
    sys.stdout = LastingStream(before[0], note)  # type: ignore[assignment]
    sys.stderr = LastingStream(before[1])  # type: ignore[assignment]
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before
