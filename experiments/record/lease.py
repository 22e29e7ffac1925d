"""One live writer to a run directory.

A launch holds the run by a file that says who it is and is touched every few seconds.
Whoever finds it fresh stays away; whoever finds it stale, or its holder dead on this
machine, takes it over. A holder that was given up for dead sees somebody else's name
in the file and stops before it writes again.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align.errors import MachineError, MtkdError
from align.support.whole_file import write_whole
from experiments.config.parsing import ConfigError

BEAT_SECONDS = 5.0
"""How often the holder touches its file."""
STALE_SECONDS = 60.0
"""Age of the last touch from which a holder on another machine is taken for dead."""
LEASE = "lease.json"


class LeaseLostError(MtkdError, RuntimeError):
    """Somebody else writes this run now."""


class Lease:
    """The right to write one run directory; see :func:`hold_run`."""

    def __init__(self, run_dir: Path) -> None:
        """Nothing is held yet."""
        self._file = run_dir / LEASE
        self._token = uuid.uuid4().hex
        self._over = threading.Event()

    def check(self) -> None:
        """See, before writing, that the run is still ours.

        Raises:
            LeaseLostError: somebody else has taken it over.
        """
        holder = read_lease(self._file.parent)
        if holder is None or holder["token"] != self._token:
            whose = f"by {_who(holder)}" if holder else "away"
            raise LeaseLostError(
                f"{self._file.parent} was taken over {whose} while this process did "
                "not answer; it stops without writing"
            )

    def take(self, wait_seconds: float) -> None:
        """Take the run, waiting a while for a holder that may be ending.

        Raises:
            ConfigError: somebody else holds it.
        """
        from filelock import FileLock

        end = time.monotonic() + wait_seconds
        waiting_told = False
        while True:
            with FileLock(str(self._file.with_name(".lock"))):
                holder = read_lease(self._file.parent)
                if holder is None or not _alive(holder, self._file):
                    if holder is not None:
                        _say(f"{_who(holder)} is gone; this launch takes the run over")
                    self._write()
                    return
            if time.monotonic() >= end:
                raise ConfigError(
                    f"another process is writing {self._file.parent}: {_who(holder)}; "
                    "wait for it or end it, or choose another run.name"
                )
            if not waiting_told:
                waiting_told = True
                _say(f"waiting up to {wait_seconds:.0f} s for {_who(holder)} to end")
            time.sleep(1.0)

    def keep(self) -> None:
        """Touch the file until :meth:`release`, in a thread of its own."""
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                self.check()
                os.utime(self._file)
            except (LeaseLostError, OSError):
                return  # the next check says so where it can stop the run

    def release(self) -> None:
        """Let the next one have it."""
        self._over.set()
        try:
            self.check()
        except LeaseLostError:
            return
        self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        mine = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID"),
        }
        write_whole(self._file, json.dumps(mine) + "\n")


def read_lease(run_dir: Path) -> dict[str, Any] | None:
    """Who holds a run: ``token``, ``host``, ``pid``, ``job``; None if nobody does."""
    try:
        held = json.loads((run_dir / LEASE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return held if isinstance(held, dict) else None


def holder_alive(run_dir: Path) -> bool:
    """Whether somebody who holds this run still does."""
    holder = read_lease(run_dir)
    return holder is not None and _alive(holder, run_dir / LEASE)


@contextmanager
def hold_run(run_dir: Path) -> Iterator[Lease | None]:
    """Hold a run for this launch; None on all its processes but the first.

    Raises:
        MachineError: the folder cannot be made.
        ConfigError: somebody else holds it. Under SLURM, where a launcher may have
            died before its processes did, they get a while to end.
    """
    if os.environ.get("RANK", "0") != "0":
        yield None
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"run.dir and run.name ask for the folder {run_dir}, which cannot be made "
            f"({error.strerror}); give run.dir a folder that you may write"
        ) from error
    lease = Lease(run_dir)
    lease.take(STALE_SECONDS if os.environ.get("SLURM_JOB_ID") else 0.0)
    lease.keep()
    try:
        yield lease
    finally:
        lease.release()


def _alive(holder: Mapping[str, Any], file: Path) -> bool:
    if holder["host"] == socket.gethostname():
        return _running(int(holder["pid"]))
    probe = file.with_name(f".{LEASE}.now{os.getpid()}")
    probe.touch()  # the file server's clock, not ours
    try:
        return probe.stat().st_mtime - file.stat().st_mtime < STALE_SECONDS
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def _running(pid: int) -> bool:
    """Whether a process of this machine runs; one that only awaits burial does not."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's process, or a system without /proc
        return True
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _who(holder: Mapping[str, Any] | None) -> str:
    if holder is None:
        return "somebody"
    job = f" of job {holder['job']}" if holder.get("job") else ""
    return f"process {holder['pid']}{job} on {holder['host']}"


def _say(text: str) -> None:
    print(f"mtkd: {text}", file=sys.stderr, flush=True)
