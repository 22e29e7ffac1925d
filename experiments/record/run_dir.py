"""Read what a run has written, as far as it has come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.errors import InputError
from align.foreign.inside import refuse_links_out
from experiments.record.history import IDENTITY, STATE, launch_faults, read_json, way_on
from experiments.record.summed_log import SummedLog
from experiments.record.which_run import CONFIG, which_run

METRICS = "metrics.jsonl"
"""Every logged number, a line at a time."""
SUMMARY = "summary.json"
"""What came of a run; written last."""
TEACHERS = "teachers.json"
"""In a run's folder: who taught, by the teachers' names."""
STUDENT = "student"
"""Beside the teachers there: what a student is that began as a hub's branch."""
MAIN = "main"
"""The arm that learns from teachers; the others are baselines."""
CE_ONLY = "ce_only"
"""The arm without teachers."""
SINGLE = "single:"
"""Prefix of the arms with one teacher."""
WITHOUT = "without:"
"""Prefix of the arms with all teachers but one."""


def arm_folder(run_dir: Path, arm: str) -> Path:
    """Where an arm keeps its phases."""
    if arm == MAIN:
        return run_dir / "phases"
    return run_dir / "baselines" / arm.replace(":", "-")


def checkpoint_folder(folder: Path) -> Path:
    """Where the phase of a folder keeps its checkpoints while it goes on."""
    return folder.with_name(f"{folder.name}.checkpoint")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which teachers the texts of a phase were given to, where some rested."""

    asked: Mapping[str, float]
    """By teacher, the share of the texts that it was asked about."""
    steps: int
    """Optimiser steps."""
    teachers_s: float
    """Mean seconds that teachers took of those that were logged, beside the student
    where they read ahead."""
    saved_s: float
    """Seconds that they would have taken more for all texts, in all steps."""

    @property
    def saved(self) -> float:
        """The same, as a share of what they would have taken."""
        whole = self.steps * self.teachers_s + self.saved_s
        return self.saved_s / whole if whole else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class RunDir:
    """A run's directory, read once."""

    path: Path
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """Lines of metrics.jsonl, in the order of writing."""
    summary: dict[str, Any] = field(default_factory=dict)
    """summary.json, empty while the run goes on."""
    faults: tuple[str, ...] = ()
    """A sentence on everything that is not as the run wrote it, and was left out."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.resolve().name

    @property
    def figures(self) -> Path:
        """Where its pictures lie."""
        return self.path / "figures"

    def lines(self, kind: str, arm: str = MAIN) -> Iterator[dict[str, Any]]:
        """Yield the metric lines of one kind and arm."""
        for line in self.metrics:
            if line.get("kind") == kind and line.get("arm", MAIN) == arm:
                yield line

    def choices(self, arm: str = MAIN) -> dict[str, Choice]:
        """By phase of an arm, whom the texts were given to; those where teachers read
        all are left out."""
        lines: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        done: dict[str, int] = {}
        for line in self.lines("train", arm):
            phase, step = str(line.get("phase")), int(line["step"])
            steps = step - done.get(phase, 0)
            done[phase] = step
            if line.get("asked") and steps > 0:
                lines.setdefault(phase, []).append((steps, line))
        return {phase: _choice(each) for phase, each in lines.items()}

    def phases(self) -> list[str]:
        """Phases in the order in which they ran."""
        named = [entry["name"] for entry in self.summary.get("phases", [])]
        names = [line["phase"] for line in self.lines("train") if line.get("phase")]
        return list(dict.fromkeys([*named, *names]))


def read_run(path: Path) -> RunDir:
    """Read a run directory.

    Args:
        path: folder holding metrics.jsonl, summary.json, or both.

    Raises:
        ValueError: no such folder, nothing of a run in it, a damaged file, or a link
            that leads out of it.
    """
    if path.is_file():
        folder = path.parent
        held = (folder / CONFIG).is_file()
        which = f"give its folder, {folder}" if held else which_run(folder)
        raise InputError(f"{path} is a file and no run's folder; {which}")
    if not path.is_dir():
        raise InputError(f"run folder {path} does not exist; {which_run(path)}")
    refuse_links_out(path)
    metrics, summary = path / METRICS, path / SUMMARY
    if not metrics.is_file() and not summary.is_file():
        raise InputError(
            f"{path} is no run's folder, with neither metrics.jsonl nor summary.json; "
            f"{which_run(path)}"
        )
    logged = SummedLog(metrics).read()
    return RunDir(
        path,
        metrics=list(logged.records),
        summary=read_json(summary),
        faults=(*logged.faults, *launch_faults(path), *_missing(path)),
    )


def _missing(path: Path) -> list[str]:
    """What a run that went as far as this one has written, and is not there."""
    begun = (path / IDENTITY).is_file()
    faults = []
    if begun and not (path / CONFIG).is_file():
        faults.append(f"{path / CONFIG} is missing")
    if read_json(path / STATE).get("finished") and not (path / SUMMARY).is_file():
        faults.append(
            f"{path / SUMMARY} is missing, though the run is finished; "
            f"{way_on(path / SUMMARY)}"
        )
    return faults


def teachers_seconds(line: Mapping[str, Any]) -> float:
    """What teachers took of a step, of a line of the kind ``train``."""
    return float(line.get("parts_s", {}).get("teachers", 0.0))


def _choice(lines: Sequence[tuple[int, Mapping[str, Any]]]) -> Choice:
    """Of one phase, from its lines, each with the steps that it is of."""
    steps = sum(count for count, _ in lines)
    names = dict.fromkeys(name for _, line in lines for name in line["asked"])
    return Choice(
        asked={
            name: sum(n * line["asked"].get(name, 0.0) for n, line in lines) / steps
            for name in names
        },
        steps=steps,
        teachers_s=sum(n * teachers_seconds(line) for n, line in lines) / steps,
        saved_s=sum(n * line["saved_s"] for n, line in lines),
    )


def written_so_far(path: Path) -> RunDir:
    """A run's metrics alone: a summary is of an earlier launch, and may be damaged."""
    logged = SummedLog(path / METRICS).read()
    return RunDir(path, metrics=list(logged.records), faults=tuple(logged.faults))


def mean_bpc(bpc: Mapping[str, float] | None) -> float | None:
    """Average bits per character over domains; None where nothing was measured."""
    values = [value for value in (bpc or {}).values() if value is not None]
    return sum(values) / len(values) if values else None


def helped(beats_ce_only: bool | None, beats_best_single: bool | None) -> bool | None:
    """Whether a phase beat every baseline that it can be held against.

    Returns:
        None where there is none.
    """
    known = [beats for beats in (beats_ce_only, beats_best_single) if beats is not None]
    return all(known) if known else None
