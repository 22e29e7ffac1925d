"""How a config chooses transforms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from align.errors import InputError
from align.schedules import ScheduledShare, Setting
from align.support.field_types import checked, shown

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


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
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"{place} has {shown(name)}; name a transform with lower-case letters, "
            "digits, '_' and '-', such as fake_quant"
        )
    if not isinstance(entry, Mapping):
        raise InputError(
            f"{place}.{name} is {shown(entry)}; give a mapping such as "
            "{bits: 4, strength: 1}"
        )
    options = dict(entry)
    kind, strength = options.pop("use", name), options.pop("strength", 1.0)
    if not isinstance(kind, str) or not _NAME.fullmatch(kind):
        raise InputError(
            f"{place}.{name}.use is {shown(kind)}; give the name of a registered "
            "transform (`mtkd plugins list --kind transform`)"
        )
    strength = checked(ScheduledShare, strength, f"{place}.{name}.strength")
    return ChosenTransform(kind=kind, strength=strength, options=options)
