"""Let someone else's small program run for so many steps and no more."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from align.errors import InputError

T = TypeVar("T")

MOST_STEPS = 5_000_000
"""Lines of Python, some seconds; a chat of a hundred turns takes twenty thousand."""


class TooManyStepsError(InputError):
    """It would not have ended, or not soon."""


def within_steps(call: Callable[[], T], what: str, most: int = MOST_STEPS) -> T:
    """Call something, and stop it where it takes too many lines of Python.

    Counting needs no clock, so that the same is stopped on every machine, in whichever
    thread. What one line makes, such as a very long text, is not bounded by this.

    Args:
        call: what to run.
        what: it is, for the error.
        most: lines and calls.

    Raises:
        TooManyStepsError: it was stopped.
    """
    taken = 0

    def count(frame: Any, event: str, argument: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken > most:
            raise TooManyStepsError(
                f"{what} does not end within {most:,} steps; give one that does"
            )
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        return call()
    finally:
        sys.settrace(before)
