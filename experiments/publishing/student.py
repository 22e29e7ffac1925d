"""The student that a run leaves, as it lies in the run's folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from align.errors import InputError
from align.foreign.marker import MARKER, read_marker
from experiments.record.run_dir import RunDir

FOLDER = "student"


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """What its files say."""

    family: str
    """``model_type`` of its config."""
    parameters: int
    """Weights as saved: tied ones once."""
    layers: int
    width: int
    vocabulary: int
    """Tokens."""


def student_folder(run: RunDir) -> Path:
    """Where a finished run's student lies, once its files are as its marker says.

    Raises:
        InputError: the run is not finished, or nothing vouches for its student.
        DamageError: a file is not as it was written.
    """
    folder = run.path / FOLDER
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no student yet: `mtkd status {run.path}` says how far the "
            "run is, and `mtkd train` goes on"
        )
    if not (folder / MARKER).is_file():
        raise InputError(
            f"{folder} has no {MARKER}, by which its files could be checked; put it "
            "back from a copy, or let `mtkd train` write the student again"
        )
    read_marker(folder, digests=True)
    return folder


def student_of(run: RunDir) -> Student:
    """Read a student's size off its files; see :func:`student_folder`."""
    folder = student_folder(run)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    return Student(
        family=str(config.get("model_type", "model")),
        parameters=_parameters(folder),
        layers=_first(text, "num_hidden_layers", "n_layer"),
        width=_first(text, "hidden_size", "n_embd"),
        vocabulary=_first(text, "vocab_size"),
    )


def brings_code(folder: Path) -> bool:
    """Whether transformers loads a student by Python files that lie beside it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("auto_map"))


def _first(config: dict[str, object], *names: str) -> int:
    for name in names:
        if isinstance(value := config.get(name), int):
            return value
    return 0


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="np") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
            total += sum(map(math.prod, shapes))
    return total
