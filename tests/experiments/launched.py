"""A run of two processes that is started as users do, and who listens meanwhile."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import yaml

from experiments.bench.faults import two_ranks as two
from tests.listening import listening

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


def launched(folder: Path, models: Path) -> Launched:
    """Start it by the command of the launcher, and watch it to its end.

    It draws no pictures; that of one process which ``test_listening.py`` watches does.
    """
    config, log = write_config(folder, models), folder / "log.txt"
    process = two.launch(config, log=log, module="tests.experiments.undrawn")
    return Launched(run=folder / "run", places=listened(process, folder))


def listened(process: Popen[bytes], folder: Path) -> set[tuple[int, str, int]]:
    """Every address on which a process of a run listened, watched until it ended.

    Args:
        process: that was launched.
        folder: of its config and of ``log.txt``, which takes what is said.
    """
    places: set[tuple[int, str, int]] = set()
    rounds, pids = 0, list[int]()
    while process.poll() is None:
        if rounds % 5 == 0:  # reading the environment of every process takes longest
            pids = two.pids_of(folder)
        rounds += 1
        for pid in pids:
            try:
                places |= {(pid, *place) for place in listening(pid)}
            except OSError:  # it has just ended
                continue
        time.sleep(0.05)
    log = (folder / "log.txt").read_text(errors="replace")
    assert process.returncode == 0 and two.finished(folder / "run"), log[-3000:]
    return places
