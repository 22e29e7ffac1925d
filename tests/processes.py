"""Shares tests among processes that are forked once everything is collected.

``pytest --processes 2`` imports and collects once, and the processes take one file of
tests after the other as they come to it. What they report is told by the session that
forked them, as if it had run all tests itself. pytest-xdist has each process import and
collect for itself, which takes a fifth more of the processor here.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import traceback
import warnings
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

from tests.processor_time import NAME, ProcessorTime

_NUMBER = struct.Struct("=H")
"""How the number of a file stands in the pipe that all processes read; a pipe holds
32,000 of them."""


def add_option(parser: pytest.Parser) -> None:
    """``--processes``, of the session."""
    parser.addoption(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the files of tests; 1: this one runs them all",
    )


class Processes:
    """Runs the tests of a session in some processes, and reports them in this one."""

    def __init__(self, count: int) -> None:
        """Nothing is running yet."""
        self._count = count
        self._of: dict[Connection, int] = {}
        """The processes that have not ended, by what they send through."""
        self._at: dict[Connection, pytest.Item] = {}
        """What they are running."""
        self._finished = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Instead of pytest's own loop, unless there is nothing to run."""
        if session.testsfailed or session.config.option.collectonly:
            return None
        files = _by_file(session.items)
        queue, numbers = os.pipe()
        os.write(numbers, b"".join(map(_NUMBER.pack, range(len(files)))))
        os.close(numbers)  # whoever has read all of them is at the end
        try:
            for _ in range(min(self._count, len(files))):
                self._fork(session, files, queue)
            while self._of:
                for sender in wait(list(self._of)):
                    self._hear(session, sender)  # type: ignore[arg-type]
        finally:
            self._stop()
            os.close(queue)
        if missing := len(session.items) - self._finished:
            session.shouldfail = f"{missing} tests not run: a process ended early"
            raise session.Failed(session.shouldfail)
        return True

    def _fork(
        self, session: pytest.Session, files: list[list[pytest.Item]], queue: int
    ) -> None:
        receiver, sender = Pipe(duplex=False)
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process:
            sender.close()
            self._of[receiver] = process
            return
        receiver.close()
        try:
            _run(session, files, queue, sender)
        finally:
            os._exit(0)  # nothing of the session that was forked is ended twice

    def _hear(self, session: pytest.Session, sender: Connection) -> None:
        """Tell what a process has said."""
        hook = session.config.hook
        try:
            kind, value = sender.recv()
        except EOFError:
            self._end(session, sender)
            return
        match kind:
            case "start":
                item = self._at[sender] = session.items[value]
                hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            case "report":
                report = hook.pytest_report_from_serializable(
                    config=session.config, data=value
                )
                hook.pytest_runtest_logreport(report=report)
            case "finish":
                item = self._at.pop(sender)
                self._finished += 1
                hook.pytest_runtest_logfinish(
                    nodeid=item.nodeid, location=item.location
                )
            case "warning":
                shown, place = value
                category = type(shown["category"], (Warning,), {})
                shown = warnings.WarningMessage(**shown | {"category": category})
                hook.pytest_warning_recorded.call_historic(
                    kwargs={"warning_message": shown, **place}
                )
            case "times":
                times = session.config.pluginmanager.get_plugin(NAME)
                if isinstance(times, ProcessorTime):
                    times.of_test |= value
            case "interrupt":
                raise KeyboardInterrupt
            case _:
                raise RuntimeError(f"a process of tests failed:\n{value}")
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)

    def _end(self, session: pytest.Session, sender: Connection) -> None:
        """Report the test in which a process died, if it did."""
        _, status = os.waitpid(self._of.pop(sender), 0)
        sender.close()
        item = self._at.pop(sender, None)
        if item is None:
            return
        self._finished += 1
        code = os.waitstatus_to_exitcode(status)
        report = pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords={},
            outcome="failed",
            longrepr=f"the process that ran this test ended with {code} in it",
            when="call",
        )
        session.config.hook.pytest_runtest_logreport(report=report)

    def _stop(self) -> None:
        """End those that are still running, with their fixtures."""
        for process in self._of.values():
            os.kill(process, signal.SIGINT)
        for sender, process in self._of.items():
            sender.close()
            os.waitpid(process, 0)
        self._of.clear()


class _Sender:
    """Sends what happens in a process to the one that tells it."""

    def __init__(self, session: pytest.Session, out: Connection) -> None:
        self._config, self._out = session.config, out
        self._numbers = {item.nodeid: n for n, item in enumerate(session.items)}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._out.send(("start", self._numbers[nodeid]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(
            config=self._config, report=report
        )
        self._out.send(("report", data))

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        self._out.send(("finish", None))

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: tuple[str, int, str] | None,
    ) -> None:
        shown = {
            "message": str(warning_message.message),
            "category": warning_message.category.__name__,  # itself may not be sent
            "filename": warning_message.filename,
            "lineno": warning_message.lineno,
        }
        value = {"when": when, "nodeid": nodeid, "location": location}
        self._out.send(("warning", (shown, value)))


def _run(
    session: pytest.Session,
    files: list[list[pytest.Item]],
    queue: int,
    out: Connection,
) -> None:
    """What a process does: the tests of one file after the other until none is left."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in a background
    config, plugins = session.config, session.config.pluginmanager
    plugins.unregister(name="terminalreporter")
    plugins.register(_Sender(session, out))
    captured: Any = plugins.getplugin("capturemanager")
    captured.stop_global_capturing()  # into files that all processes would share
    captured.start_global_capturing()
    try:
        while number := os.read(queue, _NUMBER.size):
            items = files[_NUMBER.unpack(number)[0]]
            # What comes after a file is not known yet; what is of the session stays
            for item, following in zip(items, [*items[1:], session], strict=True):
                config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        session._setupstate.teardown_exact(None)
        times = plugins.get_plugin(NAME)
        if isinstance(times, ProcessorTime):
            out.send(("times", times.of_test))
    except (KeyboardInterrupt, pytest.exit.Exception):
        session._setupstate.teardown_exact(None)
        out.send(("interrupt", None))
    except BaseException:  # told, and raised again where it is heard
        out.send(("failure", traceback.format_exc()))


def _by_file(items: list[pytest.Item]) -> list[list[pytest.Item]]:
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(str(item.path), []).append(item)
    return list(files.values())
