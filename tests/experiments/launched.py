"""Runs of two processes, and who listens meanwhile."""

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.bench.faults import two_ranks as two
from tests.listening import held_by, listeners
from tests.warm import Nursery, WarmProcess

PHASES = ("dual", "routing")
STEPS = {"dual": 6, "routing": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """One that nobody disturbed."""

    run: Path
    places: set[tuple[int, str, int]]
    """Process, address and port of whatever listened."""


def write_config(
    folder: Path, models: Path, teachers: Mapping[str, Mapping[str, Any]] | None = None
) -> Path:
    """Write the config of a run that every fault can strike.

    Args:
        folder: takes it and, as ``run``, the run.
        models: a folder of tiny models by name.
        teachers: more settings of some.
    """
    config = two.write_config(folder, models, PHASES, 1, grad_accum=2)
    settings = yaml.safe_load(config.read_text())
    settings["samples"] = {"prompts": 0}  # what it writes is not what is lost here
    del settings["teachers"]["bert-mixed"]  # one that no phase asks is enough: t5-mixed
    for phase, steps in STEPS.items():
        settings["phase"][phase] = {"train": {"steps": steps}}
    for name, more in (teachers or {}).items():
        settings["teachers"][name] |= more
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    return config


def forked(warm: Nursery, config: Path, log: Path, *faults: str) -> WarmProcess:
    """Start it, its processes forked off its launcher, as that is off another.

    Args:
        warm: forks the launcher.
        config: of the run.
        log: takes what is said.
        faults: see :mod:`experiments.bench.faults.inject`.
    """
    return warm.start(
        "experiments.bench.faults.two_ranks:lead",
        *(*faults, "train", str(config)),
        log=log,
        environ=two.marks(config),
    )


def ended(warm: Nursery, config: Path, log: Path, *faults: str) -> int:
    """Likewise; the exit code, once every process has gone."""
    process = forked(warm, config, log, *faults)
    code = process.wait(timeout=1200)
    two.bury(config.parent, leader=process.pid)
    return code


def launched(folder: Path, models: Path, warm: Nursery) -> Launched:
    """Watch it, its processes forked, from its start to its end."""
    config, log = write_config(folder, models), folder / "log.txt"
    places = listened(forked(warm, config, log), folder)
    said = log.read_text(errors="replace")
    assert two.finished(folder / "run"), said[-3000:]
    return Launched(run=folder / "run", places=places)


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphaned:
    """One whose launcher was killed while it trained, and that was started again at
    once."""

    run: Path
    places: set[tuple[int, str, int]]
    """As in :class:`Launched`, until the launcher was killed."""
    code: int
    """How it ended that was started beside the orphans."""
    log: Path
    """What all of them said."""


def orphaned(folder: Path, models: Path, warm: Nursery) -> Orphaned:
    """Start it by the launcher's command, as users do, watch it until it has taken a
    step, and leave its processes without their launcher."""
    config, log = write_config(folder, models), folder / "log.txt"
    metrics = folder / "run" / "metrics.jsonl"
    process = two.launch(config, log=log)
    places = listened(
        process, folder, lambda: metrics.exists() and '"train"' in metrics.read_text()
    )
    process.kill()
    process.wait()
    code = ended(warm, config, log)
    return Orphaned(run=folder / "run", places=places, code=code, log=log)


def listened(
    process: subprocess.Popen[bytes] | WarmProcess,
    folder: Path,
    enough: Callable[[], bool] = lambda: False,
) -> set[tuple[int, str, int]]:
    """Every address on which a process of a run listened, watched until it ended well.

    Args:
        process: leads the run's session.
        folder: of its config and of ``log.txt``, which takes what is said.
        enough: ends the watch of a run that goes on.
    """
    places: set[tuple[int, str, int]] = set()
    known: set[str] = set()
    rounds = 0
    while process.poll() is None and not enough():
        sockets = listeners()
        if rounds % 20 == 0:  # one may be held by who has just been forked
            known.clear()
        rounds += 1
        new = sockets.keys() - known  # what every process holds takes long to read
        for pid in two.pids_of(folder, process.pid) if new else ():
            try:
                places |= {(pid, *sockets[name]) for name in new & held_by(pid)}
            except OSError:  # it has just ended
                continue
        known |= new
        time.sleep(0.05)
    log = (folder / "log.txt").read_text(errors="replace")
    assert process.returncode == (None if enough() else 0), log[-3000:]
    return places
