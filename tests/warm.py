"""Processes that start warm, forked off an interpreter that knows what runs import.

A fresh interpreter spends seconds of the processor on torch and what belongs to it.
Where a test is not about the start, its processes are forked off one that has imported
all that, read the tiny models and their texts, and done nothing else: it ran no model,
set no handler, met no other process. They draw no pictures.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processor_time import servers

ROOT = Path(__file__).parents[1]


class WarmProcess:
    """One of them, with what tests use of ``subprocess.Popen``."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        """Know who has started it, for only its parent learns how it ended."""
        self._nursery, self.pid = nursery, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.ask("poll", self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Its exit code once it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not within so many seconds.
        """
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.05)
        return code

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Likewise, at once."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The interpreter they are forked off, seen from a test."""

    def __init__(self, models: Path) -> None:
        """Start it, which takes seconds once.

        Args:
            models: a folder of tiny models by name, of whose classes it knows.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(models)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=_environment({}),
        )
        servers.add(self._process.pid)

    def start(
        self,
        function: str,
        *words: str,
        log: Path,
        environ: Mapping[str, str] | None = None,
    ) -> WarmProcess:
        """Call a function in a process of its own, the leader of a session.

        Args:
            function: ``module:name``; takes a list of words and gives the exit code.
            words: such as those of a command line.
            log: takes what it prints, after what is there.
            environ: beside this process's environment, without what a launcher sets.
        """
        pid = self.ask("start", function, words, _environment(environ or {}), str(log))
        return WarmProcess(self, pid)

    def ask(self, name: str, *arguments: Any) -> Any:
        """Have it do something."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it; what it had started goes on."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        servers.remove(self._process.pid)


@contextmanager
def nursery(models: Path) -> Iterator[Nursery]:
    """One that is ended with the block."""
    made = Nursery(models)
    try:
        yield made
    finally:
        made.close()


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    from student.loop.launch import LAUNCH_VARIABLES

    kept = {k: v for k, v in os.environ.items() if k not in LAUNCH_VARIABLES}
    quick = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return kept | quick | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)} | dict(more)


def _serve(models: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print as they are imported

    from experiments.bench.faults.two_ranks import import_all
    from teacher.loading.models import load_model
    from teacher.zoo import zoo_samples
    from tests.experiments.undrawn import draw_nothing
    from tests.read_once import weights_read_once

    reading = weights_read_once(models)
    reading.__enter__()  # for as long as it lives; its children copy what it has read
    import_all(models)
    load_model(str(models / "student"), role="student")
    zoo_samples("prose", "student")  # half a second for whoever is the first
    draw_nothing()
    gc.collect()
    gc.freeze()  # or each child copies a million objects as it looks for garbage
    actions = {"start": _start, "poll": _poll}
    for line in iter(sys.stdin.readline, ""):
        name, *arguments = json.loads(line)
        print(json.dumps(actions[name](*arguments)), file=answers, flush=True)


def _start(function: str, words: list[str], environ: dict[str, str], log: str) -> int:
    if pid := os.fork():
        return pid
    os.setsid()
    for number, path in ((0, os.devnull), (1, log), (2, log)):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(path, flags), number)
    os.environ.clear()
    os.environ.update(environ)
    module, _, name = function.partition(":")
    sys.exit(getattr(importlib.import_module(module), name)(words))


def script(words: list[str]) -> None:
    """Run a file as ``python`` does, for :meth:`Nursery.start`; it exits by itself.

    Args:
        words: the file's path and its words.
    """
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
