"""Contract of phases: data that is read like a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from align.config import AlignConfig
from fuse.config import FuseConfig
from plugins.promise import Promise, problem
from student.config import LossConfig, TrainConfig
from student.output_config import OutputConfig
from teacher.teacher_rule import TeacherRule

_SECTIONS = ("title", "teachers", "align", "fuse", "loss", "output", "train")
_CHECKED: dict[str, type] = {
    "teachers": TeacherRule,
    "align": AlignConfig,
    "fuse": FuseConfig,
    "loss": LossConfig,
    "output": OutputConfig,
    "train": TrainConfig,
}


def phase(mapping: Mapping[str, Any]) -> Iterator[Promise]:
    """A phase is read like a config; names in it are checked when it runs."""

    def sections() -> str:
        unknown = [key for key in mapping if key not in _SECTIONS]
        return problem(unknown, f"has {unknown}; sections are {', '.join(_SECTIONS)}")

    def subsets() -> str:
        parts = {k: v for k, v in mapping.items() if k != "title"}
        if isinstance(parts.get("teachers"), list):  # short for their names
            del parts["teachers"]
        bad = [k for k, v in parts.items() if not isinstance(v, Mapping)]
        return problem(bad, f"sections {bad} are not mappings")

    def values() -> str:
        for section, config in _CHECKED.items():
            given = mapping.get(section, {})
            if isinstance(given, list):
                given = {"names": given}
            known = {field.name for field in fields(config)}
            unknown = sorted(given.keys() - known)
            if unknown:
                return f"{section} has no setting {unknown[0]!r}"
            config(**given)
        return ""

    def plain() -> str:
        fault = _not_plain(mapping, "")
        return problem(fault, f"{fault}; give text, numbers, lists and mappings")

    yield Promise("has known sections only", sections)
    yield Promise("each section is a mapping", subsets)
    yield Promise("its settings exist and are in range", values)
    yield Promise("holds what a config file can", plain)


def _not_plain(value: Any, place: str) -> str:
    """Where something lies that no config file holds, and what; empty if nowhere."""
    if isinstance(value, Mapping | list | tuple):
        inside = value if isinstance(value, Mapping) else dict(enumerate(value))
        problems = (
            _not_plain(x, f"{place}.{key}".lstrip(".")) for key, x in inside.items()
        )
        return next(filter(None, problems), "")
    if value is None or type(value) in (bool, int, float, str):
        return ""
    return f"{place} is of type {type(value).__name__}"
