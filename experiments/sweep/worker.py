"""Go through a sweep's trials, one after another, beside others who do the same.

Whoever trains a trial holds it by the same kind of lease that holds a run, so several
workers on one file system share a sweep without being told of each other: each takes
the next trial that nobody holds. One that died leaves a lease that goes stale, and its
trial goes on from its checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import experiments
from align.foreign.quote import say
from experiments.config.parsing import ConfigError
from experiments.config.tree import save_config
from experiments.record.course import duration
from experiments.record.lease import Lease, LeaseLostError, holder_alive
from experiments.record.stop import StopRequest
from experiments.sweep.halving import survivors
from experiments.sweep.plan import Sweep, config_file
from experiments.sweep.table import check_parts, publish, standing
from experiments.sweep.trials import Trial, measured, number

LOGS = "logs"
"""Folder of what trials printed."""
LOCKS = "locks"
"""Folder of who trains which trial."""
STOPPED = 75
"""Exit code of a run that is saved and goes on."""
_MOVES_PARTS = {"data", "eval", "phase", "phases", "teachers"}
"""Sections by which trials are measured in other parts, such as domains."""
WAIT_SECONDS = 5.0
"""Between two looks at a rung that others are training."""


class Train(Protocol):
    """Trains one trial."""

    def __call__(
        self, config: Path, log: Path, pause_after: int | None, stop: StopRequest
    ) -> int:
        """Train it as far as asked.

        Args:
            config: file of its whole config.
            log: what it prints is added here.
            pause_after: steps after which it is paused; None: to its end.
            stop: whether this worker is asked to leave, and the trial with it.

        Returns:
            The exit code of ``mtkd train``.
        """


@dataclass(frozen=True, slots=True)
class Job:
    """A trial, and how far it is to be trained."""

    trial: Trial
    pause_after: int | None


def train_apart(
    config: Path, log: Path, pause_after: int | None, stop: StopRequest
) -> int:
    """``mtkd train`` in a process of its own: what it breaks, it breaks alone."""
    words = [sys.executable, "-P", "-m", "experiments.cli", "train", str(config)]
    words += [] if pause_after is None else ["--pause-after", str(pause_after)]
    root = str(Path(experiments.__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH")
    path = root if not known else os.pathsep.join([root, known])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
        )
        asked = False
        while process.poll() is None:
            if stop() and not asked:
                process.terminate()  # it saves and leaves
                asked = True
            time.sleep(0.1)
    return process.returncode


def run_sweep(
    sweep: Sweep,
    stop: StopRequest,
    train: Train = train_apart,
    *,
    retry_failed: bool = False,
    wait_seconds: float = WAIT_SECONDS,
) -> bool:
    """Train what is left of a sweep, as far as others do not.

    Args:
        sweep: begun, see :func:`experiments.sweep.plan.begin`.
        stop: asks to leave; the trial in hand is saved.
        train: trains one trial.
        retry_failed: train again what failed before this call.
        wait_seconds: between two looks at what others do, where it has to be waited
            for.

    Returns:
        Whether it was asked to leave.

    Raises:
        InputError: see :func:`experiments.sweep.table.check_parts`; what is trained
            is kept.
    """
    began = time.time()
    while not stop():
        jobs = _jobs(sweep, began if retry_failed else None)
        if not jobs:
            break
        if _one_of(sweep, jobs, train, stop):
            if not _MOVES_PARTS & {key.partition(".")[0] for key in sweep.space.tried}:
                check_parts(sweep)  # what the first lacks, all others lack
            continue
        if sweep.rungs is None:
            say(f"mtkd: others train the {len(jobs)} trials that are left")
            break
        time.sleep(wait_seconds)  # a rung is judged when all of it is there
    publish(sweep)
    return stop()


def _one_of(sweep: Sweep, jobs: Sequence[Job], train: Train, stop: StopRequest) -> bool:
    """Train the first that nobody holds; False where all are held."""
    for job in jobs:
        with _held(sweep, job.trial) as mine:
            if mine is None:
                continue
            if not _left(job):  # another was quicker
                return True
            _train(sweep, job, train, stop, mine)
            return True
    return False


def _left(job: Job) -> bool:
    if job.pause_after is None:
        return not job.trial.finished
    return not job.trial.reached(job.pause_after)


@contextmanager
def _held(sweep: Sweep, trial: Trial) -> Iterator[Lease | None]:
    folder = sweep.folder / LOCKS / trial.name
    folder.mkdir(parents=True, exist_ok=True)
    lease = Lease(folder)
    orphan = trial.run_dir.is_dir() and holder_alive(trial.run_dir)
    try:
        if orphan or holder_alive(folder):
            yield None
            return
        lease.take(0.0)
    except ConfigError:  # taken since
        yield None
        return
    lease.keep()
    try:
        yield lease
    finally:
        lease.release()


def _train(
    sweep: Sweep, job: Job, train: Train, stop: StopRequest, mine: Lease
) -> None:
    trial, began = job.trial, time.time()
    tries = int(trial.noted().get("tries") or 0) + 1
    trial.write_note(state="started", tries=tries, error=None)
    log = sweep.folder / LOGS / f"{trial.name}.log"
    where = log.stat().st_size if log.is_file() else 0
    file = config_file(sweep, trial)
    save_config(trial.config, file)
    code = train(file, log, job.pause_after, stop)
    try:
        mine.check()
    except LeaseLostError as lost:  # who took it over notes what becomes of it
        say(f"mtkd: {trial.name}: {lost}")
        return
    seconds = time.time() - began
    taken = float(trial.noted().get("seconds") or 0.0) + seconds
    note = {"seconds": round(taken, 1), "code": code, "ended": time.time()}
    if code == 0 and trial.finished:
        trial.write_note(state="done", **note)
    elif code == STOPPED and job.pause_after is not None and not stop():
        trial.write_note(state="paused", paused_at=job.pause_after, **note)
    elif code == STOPPED or stop():
        trial.write_note(state="stopped", **note)
    else:
        trial.write_note(state="failed", error=_why(log, where, code), **note)
    publish(sweep)
    say(_line(sweep, job, seconds))


def _why(log: Path, where: int, code: int) -> str:
    """The last thing that a trial said."""
    said: list[str] = []
    if log.is_file():
        with log.open("rb") as file:
            file.seek(where)
            text = file.read().decode("utf-8", errors="replace")
        said = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("mtkd: ")] or said
    last = errors[-1] if errors else "it said nothing"
    how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}: {last[:500]}"


def _line(sweep: Sweep, job: Job, seconds: float) -> str:
    trial, by = job.trial, sweep.sought.by
    ended = [t for t in sweep.trials if t.state in ("done", "failed", "paused")]
    said = f"mtkd: [{len(ended)}/{len(sweep.trials)}] {trial.name}: {trial.state}"
    value = number(measured(trial, job.pause_after), by)
    if trial.state in ("done", "paused") and value is not None:
        said += f", {by} {value:.4g}"
        if trial.state == "paused":
            said += f" after {job.pause_after} steps"
    if trial.state == "failed":
        said += f" ({trial.noted().get('error')})"
    return f"{said}, {duration(seconds)}"


def _jobs(sweep: Sweep, retry_before: float | None) -> list[Job]:
    """What is to be trained now, in order; nothing where all is."""

    def wanted(trial: Trial) -> bool:
        if trial.state != "failed":
            return True
        ended = float(trial.noted().get("ended") or 0.0)
        return retry_before is not None and ended < retry_before

    def left(trials: Sequence[Trial], pause_after: int | None) -> list[Job]:
        jobs = [Job(trial, pause_after) for trial in trials]
        return [job for job in jobs if _left(job) and wanted(job.trial)]

    if sweep.rungs is None:
        return left(sweep.trials, None)
    groups = sweep.groups
    alive = list(groups)
    for rung in sweep.rungs.steps:
        jobs = left([trial for group in alive for trial in groups[group]], rung)
        if jobs:
            return jobs
        values = {group: standing(sweep, groups[group], rung) for group in alive}
        alive = survivors(values, sweep.rungs.reduction, sweep.lower)
    return left([trial for group in alive for trial in groups[group]], None)
