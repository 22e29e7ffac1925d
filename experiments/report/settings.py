"""Which settings of a run are not what they are by default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from align.bounds.yaml_document import read_yaml
from align.errors import InputError
from experiments.config.parsing import plain
from experiments.config.tree import Config
from experiments.record.run_dir import RunDir
from teacher.teacher_config import TeacherConfig

LONGEST = 160
"""Characters of a value that a table shows."""

OF_THE_RUN = {"run.name", "run.dir"}
"""What every run sets."""


def changed_settings(run: RunDir) -> list[tuple[str, str, str]]:
    """Name, value and default of every setting that differs.

    The file is compared as it lies there, so that runs of earlier versions and with
    plugins that are not at hand can be read. A setting without a default, as of one
    phase, has ``–`` for it.
    """
    path = run.path / "config.yaml"
    if not path.is_file():
        return []
    try:
        given = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (InputError, UnicodeDecodeError):  # damaged; whoever reports says so
        return []
    if not isinstance(given, Mapping):
        return []
    defaults = dict(_flat(plain(Config())))
    teacher = plain(TeacherConfig(model=""))
    rows = []
    for name, value in _flat(given):
        default = defaults.get(name, "–")
        words = name.split(".")
        if words[0] == "teachers" and words[-1] != "model":
            default = teacher.get(words[-1], "–")
        empty = value in ({}, [], None) and default == "–"
        if value != default and not empty and name not in OF_THE_RUN:
            rows.append((name, _shown(value), _shown(default)))
    return rows


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names; an empty mapping is a value."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _shown(value: Any) -> str:
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, default=str)
    )
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
