"""Where a run is, why each of its launches ended, and what it would do next."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.errors import InputError
from align.foreign.inside import refuse_links_out
from align.foreign.marker import MARKER
from align.foreign.signature import UnsignedError, check_signed
from experiments.config.tree import Config, load_kept_config
from experiments.record.history import STATE, attempts, launch_faults, read_json
from experiments.record.lease import holder_alive, read_lease
from experiments.record.run_dir import (
    CE_ONLY,
    MAIN,
    SINGLE,
    WITHOUT,
    arm_folder,
    checkpoint_folder,
)
from experiments.record.which_run import which_run
from student.checkpoint import (
    CheckpointError,
    check_marked,
    read_complete,
    steps_kept,
)
from teacher.loading.vouched import STUDENT


def describe(run_dir: Path) -> dict[str, Any]:
    """Read a run directory without writing to it.

    Returns:
        ``state`` (``finished``, ``running``, ``stopped``, ``dead`` or ``new``),
        ``phases`` (each ``arm``, ``phase``, ``done``, ``damage``, ``checkpoints``),
        ``attempts`` (see :func:`experiments.record.history.attempts`), ``faults`` (a
        sentence on everything else that is damaged), ``holder`` and ``next``, one
        sentence.

    Raises:
        ValueError: there is no run.
    """
    if not (run_dir / "config.yaml").is_file():
        raise InputError(
            f"{run_dir} holds no run: there is no config.yaml; {which_run(run_dir)}"
        )
    refuse_links_out(run_dir)
    config = load_kept_config(run_dir / "config.yaml")
    launches = attempts(run_dir)
    state = _state(run_dir, launches)
    phases = list(_phases(run_dir, config))
    return {
        "run": str(run_dir),
        "state": state,
        "holder": read_lease(run_dir) if state == "running" else None,
        "phases": phases,
        "attempts": launches,
        "faults": list(launch_faults(run_dir)),
        "next": _next(run_dir, state, phases),
    }


def _state(run_dir: Path, launches: list[dict[str, Any]]) -> str:
    if holder_alive(run_dir):
        return "running"
    noted = read_json(run_dir / STATE)
    if noted.get("finished"):
        return "finished"
    if not launches:
        return "new"
    return "stopped" if launches[-1]["how"] else "dead"


def _phases(run_dir: Path, config: Config) -> Iterator[dict[str, Any]]:
    """Every phase of every arm, in the order of training."""
    gated, others = _arms(run_dir, config)
    order = [(arm, i) for i in range(len(config.phases)) for arm in gated]
    order += [(arm, i) for arm in others for i in range(len(config.phases))]
    for arm, index in order:
        phase = config.phases[index]
        folder = arm_folder(run_dir, arm) / f"{index + 1}-{phase}"
        kept = steps_kept(checkpoint_folder(folder))
        yield {
            "arm": arm,
            "phase": phase,
            "done": (folder / MARKER).is_file(),
            "damage": _damage(folder) or _refusal(folder),
            "checkpoints": [_checkpoint(step, path) for step, path in kept],
        }


def _checkpoint(step: int, path: Path) -> dict[str, Any]:
    damage = _damage(path)
    whole = "unsigned" if _refusal(path) else "verified"
    verdict = "damaged" if damage else whole
    return {"step": step, "verdict": verdict, "damage": damage}


def _arms(run_dir: Path, config: Config) -> tuple[list[str], list[str]]:
    """Arms that train phase by phase; and those of the others that have begun."""
    gated = [MAIN, *([CE_ONLY] if config.baselines.ce_only else [])]
    begun = [
        f"{prefix}{folder.name.partition('-')[2]}"
        for prefix in (SINGLE, WITHOUT)
        for folder in sorted((run_dir / "baselines").glob(f"{prefix.rstrip(':')}-*"))
    ]
    return gated, begun


def _damage(folder: Path) -> str | None:
    try:
        check_marked(folder, holding=STUDENT)
        read_complete(folder, digests=True)
    except CheckpointError as error:
        return str(error)
    return None


def _refusal(folder: Path) -> str | None:
    """Why a folder that is whole would not be taken; None where it would be."""
    try:
        if (folder / MARKER).is_file():
            check_signed(folder)
    except UnsignedError as error:
        return str(error)
    return None


def _next(run_dir: Path, state: str, phases: list[dict[str, Any]]) -> str:
    if state == "finished":
        return f"nothing: it is finished, see {run_dir / 'report.html'}"
    damaged = next((entry for entry in phases if entry["damage"]), None)
    if damaged:
        return f"it would refuse to go on: {damaged['damage']}"
    open_phase = next((entry for entry in phases if not entry["done"]), None)
    if open_phase is None:
        return "it would train what baselines are left, measure and report"
    where = f"{open_phase['arm']} · {open_phase['phase']}"
    good = [c for c in open_phase["checkpoints"] if c["verdict"] != "damaged"]
    start = f"from step {good[0]['step']}" if good else "from its start"
    if not good and open_phase["checkpoints"]:
        first = open_phase["checkpoints"][0]["damage"]
        return f"it would refuse to go on: no checkpoint of {where} verifies; {first}"
    if good and good[0]["verdict"] == "unsigned":
        return (
            f"it would refuse to go on: this account did not sign {where} {start}; if "
            "you know where it comes from, --trust-checkpoint"
        )
    if state == "running":
        return f"it is at {where}; killed now, it would go on {start}"
    return f"the same command goes on with {where} {start}"


def lines(description: dict[str, Any]) -> Iterator[str]:
    """What :func:`describe` found, for people."""
    holder = description["holder"]
    by = f" (process {holder['pid']} on {holder['host']})" if holder else ""
    yield f"{description['run']}: {description['state']}{by}"
    for entry in description["phases"]:
        kept = ", ".join(
            f"step {c['step']} {c['verdict']}" for c in entry["checkpoints"]
        )
        what = "done" if entry["done"] else (kept or "-")
        yield f"  {entry['arm']:<20} {entry['phase']:<14} {what}"
        for part in (entry, *entry["checkpoints"]):
            if part["damage"]:
                yield f"    {part['damage']}"
    yield from (f"  damaged: {fault}" for fault in description["faults"])
    launches = description["attempts"]
    for number, launch in enumerate(launches, start=1):
        yield f"  launch {number}: {_told(launch, number == len(launches))}"
    yield f"next: {description['next']}"


def _told(launch: dict[str, Any], last: bool) -> str:
    began = datetime.datetime.fromtimestamp(launch["time"]).strftime("%Y-%m-%d %H:%M")
    job = f", job {launch['job']}" if launch.get("job") else ""
    again = f", requeued {launch['requeued']} times" if launch.get("requeued") else ""
    where = f"{began} on {launch['host']}, {launch['world_size']} process(es)"
    if launch["how"] is None:
        end = "still going on, or killed" if last else "killed without a word"
    else:
        end = launch["how"] + (f": {launch['why']}" if launch["why"] else "")
    return f"{where}{job}{again}; {end}"
