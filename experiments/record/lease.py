"""One live writer to a run directory.

A launch holds the run by a file that says who it is and is touched every few seconds.
Whoever finds it fresh stays away; whoever finds it stale, or its holder dead on this
machine, takes it over. A holder that was given up for dead sees somebody else's name
in the file and stops before it writes again.

A process number alone says little: after a reboot, or in another container, another
process has it, and in a container the first process is always 1.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from align.errors import MachineError, MtkdError
from align.foreign.quote import say
from align.support.whole_file import write_whole
from experiments.config.parsing import ConfigError

BEAT_SECONDS = 5.0
"""How often the holder touches its file."""
STALE_SECONDS = 60.0
"""Age of the last touch from which a holder on another machine is taken for dead."""
LEASE = "lease.json"
_HELD: set[str] = set()
"""Tokens of the leases that this process holds."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SLACK_SECONDS = 2.0
"""How far two readings of one process's start may lie apart, where clocks tell it."""


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
                    "wait for it or end it, or choose another run.name. If you know "
                    f"that it is gone, remove {self._file}"
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
        _HELD.discard(self._token)
        try:
            self.check()
        except LeaseLostError:
            return
        self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        mine = {
            "token": self._token,
            **this_process(),
            "job": os.environ.get("SLURM_JOB_ID"),
            "since": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}",
        }
        _HELD.add(self._token)
        write_whole(self._file, json.dumps(mine) + "\n")


def read_lease(run_dir: Path) -> dict[str, Any] | None:
    """Who holds a run: ``token``, ``job``, ``since`` and what
    :func:`this_process` says; None if nobody does, or
    nothing that can be read says who."""
    try:
        held = json.loads((run_dir / LEASE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(held, dict) and isinstance(held.get("pid"), int)
    texts = whole and all(isinstance(held.get(x), str) for x in ("token", "host"))
    return held if texts else None


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
    if holder["token"] in _HELD:
        return True
    here = runs(holder)
    if here is not None:
        return here
    probe = file.with_name(f".{LEASE}.now{os.getpid()}")
    probe.touch()  # the file server's clock, not ours
    try:
        age = probe.stat().st_mtime - file.stat().st_mtime
        return abs(age) < STALE_SECONDS  # a clock that was set back makes it negative
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def this_process() -> dict[str, Any]:
    """Host, number, start, boot and namespace of this process; None what is not known.

    ``started`` is a text where the system counts from its boot, which no clock that is
    set changes; else seconds since 1970.
    """
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "boot": _boot(),
        "namespace": _namespace(),
    }


def runs(noted: Mapping[str, Any]) -> bool | None:
    """Whether a process that was noted by :func:`this_process` still runs.

    What an earlier version noted has neither start nor boot, and is judged by its
    number alone; this process's own number is never another's.

    Returns:
        None where that cannot be seen from here: on another host, or in another
        namespace of processes.
    """
    if noted["host"] != socket.gethostname():
        return None
    boot, namespace = noted.get("boot"), noted.get("namespace")
    if boot is not None and boot != (_boot() or boot):
        return False
    if namespace is not None and namespace != (_namespace() or namespace):
        return None
    pid = int(noted["pid"])
    if not _exists(pid):
        return False
    started = noted.get("started")
    if started is None:
        return pid != os.getpid()
    return _same(started, _started(pid))


def _exists(pid: int) -> bool:
    """Whether a process has a number; one that only awaits burial does not run."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # somebody else's
        return True


def _started(pid: int) -> str | float | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return stat.rpartition(")")[2].split()[19]  # ticks since boot
    except (OSError, IndexError):
        pass
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _same(noted: object, now: object) -> bool:
    if isinstance(noted, float) and isinstance(now, float):
        return abs(noted - now) < _SLACK_SECONDS
    return now is None or noted == now


def _boot() -> str | None:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _namespace() -> int | None:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def _who(holder: Mapping[str, Any] | None) -> str:
    if holder is None:
        return "somebody"
    job = f" of job {holder['job']}" if holder.get("job") else ""
    since = f" since {holder['since']}" if holder.get("since") else ""
    return f"process {holder['pid']}{job} on {holder['host']}{since}"


def _say(text: str) -> None:
    say(f"mtkd: {text}")
