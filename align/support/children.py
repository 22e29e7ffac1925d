"""Processes that this one forks and waits for."""

from __future__ import annotations

import os
import signal
import time


def wait_for(child: int, seconds: float, every: float) -> int | None:
    """Wait for a forked process, and end one that takes too long.

    Args:
        child: its number.
        seconds: of the clock, how long at most.
        every: seconds between two looks.

    Returns:
        Its exit code, negative for the signal that ended it; None: it was killed here.

    Raises:
        ChildProcessError: nobody may wait for it, such as under an ignored SIGCHLD.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(every)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
