"""The low-rank updates of a student, as they lie beside its merged weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from align.errors import InputError
from align.support.whole_file import write_whole
from experiments.publishing.names import is_local
from experiments.record.history import read_json
from experiments.record.run_dir import STUDENT, TEACHERS
from teacher.names import pinned

FOLDER = "adapter"
"""In a student's folder."""
SETTINGS = "adapter_config.json"
_OF_THE_WHOLE = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model*.safetensors.index.json",
    "exits*",
)
"""Files of a merged student that say nothing of its updates alone."""


@dataclass(frozen=True, slots=True)
class Base:
    """The model on which the updates are."""

    name: str
    """On the hub."""
    revision: str | None


def settled_config(config: Mapping[str, Any], run: Path) -> Mapping[str, Any]:
    """A run's config whose student is at the commit that it began with.

    Args:
        config: as its config.yaml has it, where a branch may be named.
        run: its folder.
    """
    began, noted = config.get("student") or {}, read_json(run / TEACHERS).get(STUDENT)
    if not noted or pinned(model := str(began.get("model"))) is None:
        return config
    if noted.get("model") != model:
        return config
    name = f"{model.partition('@')[0]}@{noted['revision']}"
    return {**config, "student": {**began, "model": name}}


def base_of(config: Mapping[str, Any]) -> Base | None:
    """The model that a run's updates were put on; None where no hub has it.

    Args:
        config: of the run, as its config.yaml has it.
    """
    began = config.get("student") or {}
    model = str(began.get("model", ""))
    name, revision = pinned(model) or (model, began.get("revision"))
    drawn = began.get("init") == "fresh"
    elsewhere = drawn or "/" not in name or ":" in name or is_local(name)
    return None if elsewhere else Base(name, revision)


def has_adapter(student: Path) -> bool:
    """Whether a student's folder holds updates."""
    return (student / FOLDER / SETTINGS).is_file()


def check_adapter(student: Path, config: Mapping[str, Any]) -> Base:
    """See that a student's updates are of use by themselves; gives what they are on.

    Raises:
        InputError: it has none, or nobody else has the model that they are on.
    """
    if not has_adapter(student):
        raise InputError(
            f"{student} has no {FOLDER}/, so there are no updates to send alone; train "
            "with student.lora.rank above 0, or leave --adapter out"
        )
    base = base_of(config)
    if base is None:
        model = (config.get("student") or {}).get("model")
        raise InputError(
            f"the updates are on student.model {str(model)!r}, which no hub has, so "
            "that nobody could load them; leave --adapter out: the merged student "
            "stands alone"
        )
    return base


def alone(
    files: Mapping[str, Path], settings: Path, config: Mapping[str, Any]
) -> dict[str, Path]:
    """Of a student's files those of its updates, which stand at the top.

    Args:
        files: by their names in the student's folder.
        settings: see :func:`without_places`.
        config: of the run.
    """
    kept = without_places(files, settings, config)
    inside = f"{FOLDER}/"
    return {
        name.removeprefix(inside): path
        for name, path in kept.items()
        if name.startswith(inside)
        or not any(fnmatch(name, pattern) for pattern in _OF_THE_WHOLE)
    }


def without_places(
    files: Mapping[str, Path], settings: Path, config: Mapping[str, Any]
) -> dict[str, Path]:
    """A student's files, the updates' settings naming their base as others find it.

    Args:
        files: by their names in the student's folder.
        settings: where those are written that name no folder of this machine.
        config: of the run.
    """
    name = f"{FOLDER}/{SETTINGS}"
    if name not in files:
        return dict(files)
    base = base_of(config)
    facts = json.loads(files[name].read_text(encoding="utf-8"))
    facts["base_model_name_or_path"] = base.name if base else None
    facts["revision"] = base.revision if base else None
    write_whole(settings, json.dumps(facts, indent=2, sort_keys=True) + "\n")
    return {**files, name: settings}
