"""The students that a run has left: of every phase, and of every baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from align.errors import InputError, nearest
from align.foreign.inside import refuse_links_out
from experiments.record.history import read_json
from experiments.record.run_dir import SUMMARY

FIRST = "before the run"
"""What the student is called that a run began with."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One phase of a run whose student is there."""

    name: str
    folder: Path
    """Of its student."""
    before: Path | None
    """Of the student it began with; None for the run's first."""
    rolled_back: bool
    """Whether later phases, and the run's student, go on from ``before``."""


def auto_class(folder: Path) -> str:
    """The class of transformers that loads the model in a folder."""
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else {}
    both = config.get("is_encoder_decoder", False)
    return "AutoModelForSeq2SeqLM" if both else "AutoModelForCausalLM"


def students_of(run: Path) -> dict[str, Path]:
    """Find a run's students: the phases in order, then each baseline's last.

    Raises:
        ValueError: the folder is no run, or no phase is finished yet.
    """
    _check_run(run)
    students = {folder.parent.name: folder for folder in _phases(run / "phases")}
    for arm in _arms(run):
        last = _phases(arm)[-1:]
        students |= {f"{arm.name}/{folder.parent.name}": folder for folder in last}
    if not students:
        raise InputError(f"{run} has no finished phase yet; `mtkd train` goes on")
    return students


def phases_of(run: Path) -> list[Trained]:
    """The finished phases of a run's main arm, in order.

    Raises:
        ValueError: the folder is no run, or no phase is finished yet.
    """
    _check_run(run)
    folders = _phases(run / "phases")
    if not folders:
        raise InputError(f"{run} has no finished phase yet; `mtkd train` goes on")
    dropped = _rolled_back(run, folders)
    phases: list[Trained] = []
    for folder in folders:
        kept = [phase.folder for phase in phases if not phase.rolled_back]
        name = phase_name(folder)
        before = kept[-1] if kept else None
        phases.append(Trained(name, folder, before, name in dropped))
    return phases


def phase_called(phases: Sequence[Trained], name: str, run: Path) -> Trained:
    """Choose a phase by its name, or as its folder is called (``1-dual``).

    Raises:
        InputError: there is none, or it has no student yet.
    """
    known = {word: p for p in phases for word in (p.folder.parent.name, p.name)}
    if name in known:
        return known[name]
    near = nearest(name, known)
    hint = f"did you mean {near!r}? " if near else ""
    raise InputError(
        f"{run} has no phase {name!r} that is finished; {hint}its phases are "
        f"{', '.join(phase.name for phase in phases)}"
    )


def baselines_of(run: Path, phase: Trained) -> Mapping[str, Path]:
    """The students of baselines after the same phase, by their arm.

    Raises:
        InputError: the run has trained none.
    """
    place = phase.folder.parent.name
    students = {
        arm.name: arm / place / "student"
        for arm in _arms(run)
        if (arm / place / "student").is_dir()
    }
    if not students:
        raise InputError(
            f"{run} has no baseline after phase {phase.name}; train it with "
            "baselines.ce_only=true, or leave --baselines out"
        )
    return students


def phase_name(folder: Path) -> str:
    """A phase's name from its student's folder: ``dual`` of ``1-dual/student``."""
    return folder.parent.name.partition("-")[2]


def _check_run(run: Path) -> None:
    if not (run / "config.yaml").is_file():
        raise InputError(
            f"{run} is no run: it holds no config.yaml; give the folder that `mtkd "
            "train` or `mtkd quickstart` wrote, such as runs/quickstart"
        )
    refuse_links_out(run)


def _arms(run: Path) -> list[Path]:
    return sorted((run / "baselines").glob("*"))


def _phases(folder: Path) -> list[Path]:
    """Finished phases' students, in the order of the phases' numbers."""
    students = [path for path in folder.glob("*/student") if path.is_dir()]
    numbered = [path for path in students if path.parent.name[:1].isdigit()]
    return sorted(numbered, key=lambda path: int(path.parent.name.partition("-")[0]))


def _rolled_back(run: Path, folders: Sequence[Path]) -> set[str]:
    """Names of phases that nothing builds on, from later records and the summary."""
    last = folders[-1].parent
    record = read_json(last.with_name(f"{last.name}.settings.json"))
    names = set(record.get("rolled_back") or ())
    for entry in read_json(run / SUMMARY).get("phases", ()):
        if (entry.get("gate") or {}).get("rolled_back"):
            names.add(entry["name"])
    return names
