"""How a config chooses transforms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from align.schedules import ScheduledShare, Setting
from align.support.field_types import checked, named_choice

_EXAMPLE = "{fake_quant: {bits: 4, strength: 1}}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenTransform:
    """One transform of a student, as a config chooses it."""

    kind: str
    """A registered transform."""
    strength: Setting = 1.0
    """In [0, 1], or a schedule."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the kind, by name."""


def chosen_transforms(
    setting: Mapping[str, Any], place: str = "student.transform"
) -> dict[str, ChosenTransform]:
    """Read ``{NAME: {use: KIND, strength: 1, option: value}}``.

    Args:
        setting: as the config says it; ``use`` is the name where it is left out.
        place: the setting, for errors.

    Raises:
        InputError: a name, kind or strength that cannot be used.
    """
    return {name: _chosen(name, entry, place) for name, entry in setting.items()}


def _chosen(name: str, entry: Any, place: str) -> ChosenTransform:
    kind, options = named_choice(name, entry, place, "transform", _EXAMPLE)
    strength = options.pop("strength", 1.0)
    strength = checked(ScheduledShare, strength, f"{place}.{name}.strength")
    return ChosenTransform(kind=kind, strength=strength, options=options)
