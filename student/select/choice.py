"""How a config chooses the terms of a loss, and what selects their places."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from align.errors import InputError
from align.schedules import ScheduledNotNegative, Setting
from align.support.field_types import checked, named_choice, shown

KV, OUTPUTS, NEXT_TOKEN = "kv", "outputs", "next_token"
ON = (KV, OUTPUTS, NEXT_TOKEN)
"""What a selector's weights may multiply."""
_EXAMPLE = "{uncertain: {percentile: 50}}"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_TAKEN = (
    *("outcome", "teacher_loss", "entropy", "z_reconstruction", "z_agreement"),
    "balance",
)
"""Losses that are no terms, and are logged beside them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenSelector:
    """One selector, as a config chooses it."""

    kind: str
    """A registered selector."""
    on: tuple[str, ...] = (KV, OUTPUTS)
    """Some of ``ON``, in that order."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the kind, by name."""


def chosen_selectors(
    setting: Mapping[str, Any], place: str = "loss.select"
) -> dict[str, ChosenSelector]:
    """Read ``{NAME: {use: KIND, on: [kv, outputs], option: value}}``.

    Args:
        setting: as the config says it; ``use`` is the name where it is left out.
        place: the setting, for errors.

    Raises:
        InputError: a name, kind or place that cannot be used.
    """
    return {name: _chosen(name, entry, place) for name, entry in setting.items()}


def _chosen(name: str, entry: Any, place: str) -> ChosenSelector:
    kind, options = named_choice(name, entry, place, "selector", _EXAMPLE)
    on = options.pop("on", [KV, OUTPUTS])
    named = [on] if isinstance(on, str) else on
    if not isinstance(named, list | tuple) or not named or not set(named) <= set(ON):
        raise InputError(
            f"{place}.{name}.on is {shown(on)}; give a list of any of {', '.join(ON)}"
        )
    kept = tuple(each for each in ON if each in named)
    return ChosenSelector(kind=kind, on=kept, options=options)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenTerm:
    """One term of the loss, as a config chooses it."""

    kind: str
    """A registered objective."""
    weight: Setting = 1.0
    """A number, or a schedule."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the kind, by name."""


def chosen_term(name: str, entry: Mapping[str, Any]) -> ChosenTerm:
    """Read one entry of ``loss.terms``.

    Raises:
        ValueError: a name, kind or weight that cannot be used.
    """
    place = f"loss.terms.{name}"
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise ValueError(
            f"{place}: a term's name is lower-case letters, digits, '_' and '-', "
            f"and none of {', '.join(_TAKEN)}, which are other losses"
        )
    options = dict(entry)
    kind, weight = options.pop("use", name), options.pop("weight", 1.0)
    if not isinstance(kind, str) or not kind:
        raise ValueError(f"{place}.use is {kind!r}; give a registered objective")
    weight = checked(ScheduledNotNegative, weight, f"{place}.weight")
    return ChosenTerm(kind=kind, weight=weight, options=options)
