"""What a session of tests takes of the processor, said at its end.

The clock says little on a shared machine; seconds of the processor, those of ended
children included, are nearly the same everywhere. CONTRIBUTING gives the budget.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LISTED = 10
NAME = "processor_time"
"""Under which the plugin is registered."""
WORTH_A_LIST = 30.0
"""Seconds of a session from which on its dearest tests are named."""


servers: set[int] = set()
"""Processes that live longer than a test and start others for tests; in whose time they
are, whoever needs them. Whoever has waited for one takes it out: the kernel then counts
it among the children that have ended."""


def taken() -> float:
    """Processor seconds of this process, of its children that have ended, and of
    :data:`servers` with theirs."""
    times = os.times()
    ended = times.user + times.system + times.children_user + times.children_system
    return ended + sum(map(_taken_by, servers))


def _taken_by(process: int) -> float:
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no such process, or no Linux
        return 0.0
    # utime, stime, cutime and cstime of proc_pid_stat(5), whose state is the third
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


class ProcessorTime:
    """Takes the time of each test, with the fixtures that it is the first to need."""

    def __init__(self) -> None:
        """Nothing has been run yet."""
        self.of_test: dict[str, float] = {}
        self.before = 0.0
        """Of imports and of collecting tests."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[Any]:
        """What comes before the first test is told apart."""
        self.before = taken()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        """One test, from its fixtures to their end."""
        began = taken()
        try:
            return (yield)
        finally:
            self.of_test[item.nodeid] = taken() - began

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say it where the session's outcome is said."""
        for line in said(taken(), self.before, self.of_test):
            terminalreporter.write_line(line)


def said(total: float, before: float, of_test: dict[str, float]) -> list[str]:
    """What is told of a session.

    Args:
        total: processor seconds of the session.
        before: those of imports and collection.
        of_test: those of each test by its id.

    Returns:
        Lines: the sum and, of a session that took long, its dearest tests.
    """
    lines = [
        f"processor time: {total:.0f} s, {before:.0f} s of them before the first test"
    ]
    if total < WORTH_A_LIST:
        return lines
    dearest = sorted(of_test, key=lambda test: of_test[test], reverse=True)[:LISTED]
    return lines + [f"{of_test[test]:8.1f} s  {test}" for test in dearest]
