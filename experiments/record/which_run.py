"""Is a name a run's folder, and which run was meant where there is none."""

from __future__ import annotations

from pathlib import Path

from align.errors import InputError, nearest

RUNS = Path("runs")
"""Where runs lie, unless ``run.dir`` says otherwise."""
MOST = 8
"""Runs in a folder that are named."""
CONFIG = "config.yaml"
"""Of every run."""


def is_run(name: str) -> bool:
    """Whether a name is a run's folder, not a model's.

    Raises:
        InputError: a folder that is neither, or the name of a run that is not there.
    """
    folder = Path(name).expanduser()
    if (folder / CONFIG).is_file():
        return True
    if folder.is_file():
        raise InputError(
            f"{name} is a file; give a run's folder, such as runs/quickstart, or a "
            "model's"
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(
            f"{name} is neither a run nor a model: it has no config.yaml and no "
            f"config.json; {which_run(folder)}"
        )
    if not folder.exists() and _means_a_run(folder):
        raise InputError(f"run folder {name} does not exist; {which_run(folder)}")
    return False


def which_run(folder: Path) -> str:
    """Say which run may have been meant by a folder that is none."""
    inside = _runs_in(folder)
    if inside:
        rest = f" and {len(inside) - MOST} more" if len(inside) > MOST else ""
        return f"it holds runs, give one: {', '.join(map(str, inside[:MOST]))}{rest}"
    there = _beside(folder)
    if not there:
        place = folder.parent if folder.parent != Path() else RUNS
        return f"there are no runs in {place}; `mtkd quickstart --tiny` makes one"
    named = {run.name: run for run in there}
    near = nearest(folder.name, named)
    if near:
        return f"did you mean {named[near]}?"
    return f"there are {', '.join(map(str, there))}"


def _means_a_run(folder: Path) -> bool:
    """Whether a name that is no folder is rather a run's than one on the hub."""
    if folder.parent == Path():  # `quickstart`, where runs/quickstart is
        return folder.name in {run.name for run in _beside(folder)}
    return folder.parent == RUNS or bool(_beside(folder))


def _beside(folder: Path) -> list[Path]:
    """Runs beside it; of a bare name those in :data:`RUNS`."""
    return _runs_in(RUNS if folder.parent == Path() else folder.parent)


def _runs_in(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(run for run in place.iterdir() if (run / CONFIG).is_file())
