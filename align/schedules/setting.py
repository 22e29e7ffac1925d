"""A setting that is a number, or ``{from, to, steps, rule}``: how it is read."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from annotated_types import Interval

from align.errors import InputError, meant
from align.schedules.rules import NEEDED, RULES, problem_of
from align.support.field_types import (
    REFUSED,
    Count,
    NotNegative,
    Positive,
    Share,
    ShareBelowOne,
    checked,
    shown,
)

Setting = float | Mapping[str, Any]
"""A number, or a schedule as a config says it."""
_KEYS = ("from", "to", "steps", "rule")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Where a number comes from, where it goes, and how."""

    start: float
    end: float
    steps: int | None
    """Optimiser steps of a phase in which it gets there; None: all of them."""
    rule: str
    """A registered schedule."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the rule, by name."""


@dataclass(frozen=True, slots=True)
class ScheduleOf:
    """Marks a mapping as a schedule of numbers of one type."""

    number: Any

    words = "a schedule {from, to, steps, rule}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Have pydantic read it wherever such a setting stands."""
        from pydantic_core import PydanticCustomError, core_schema

        def checked_schedule(value: dict[str, Any]) -> dict[str, Any]:
            try:
                return _checked(value, self.number)
            except InputError as error:
                raise PydanticCustomError(REFUSED, "{e}", {"e": str(error)}) from None

        return core_schema.no_info_after_validator_function(
            checked_schedule, handler(source)
        )


_FromZero = Annotated[float, Interval(ge=0, le=1e30)]
Rate = Annotated[float, Interval(gt=0, le=1e30)]
"""A learning rate; AdamW's first step divides it by 0.1, and a float32 ends at 3e38."""
ScheduledNotNegative = NotNegative | Annotated[dict[str, Any], ScheduleOf(NotNegative)]
ScheduledPositive = Positive | Annotated[dict[str, Any], ScheduleOf(Positive)]
ScheduledShare = Share | Annotated[dict[str, Any], ScheduleOf(Share)]
ScheduledShareBelowOne = (
    ShareBelowOne | Annotated[dict[str, Any], ScheduleOf(ShareBelowOne)]
)
ScheduledRate = Rate | Annotated[dict[str, Any], ScheduleOf(_FromZero)]
"""A learning rate may begin or end at 0."""


def is_schedule(setting: Any) -> bool:
    """Whether a setting moves by a schedule."""
    return isinstance(setting, Mapping) and "from" in setting


def number_of(hint: Any) -> Any:
    """The numbers that a setting of a type may move among, as its schedules say."""
    return _marked(hint) or NotNegative


def _marked(hint: Any) -> Any:
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, ScheduleOf):
            return mark.number
    return next(filter(None, map(_marked, get_args(hint))), None)


@cache
def numbers_of(options: Any) -> dict[str, Any]:
    """The same of each setting of a class, by name; none where it cannot be told."""
    try:
        hints = get_type_hints(options, include_extras=True)
    except NameError:  # a stranger's, of types that only a checker imports
        return {}
    return {name: number_of(hint) for name, hint in hints.items()}


def is_on(setting: Setting) -> bool:
    """Whether a weight is anything but 0 at some step."""
    if not isinstance(setting, Mapping):
        return setting > 0
    return any(setting.get(key) for key in ("from", "to", "peak"))


def settled(setting: Setting) -> float:
    """A setting that has become a number, see :meth:`.Timetable.options`."""
    assert not isinstance(setting, Mapping), "a schedule is asked what it is first"
    return setting


def greatest(setting: Setting) -> float:
    """The largest number that a setting says."""
    return max(_ends(setting))


def least(setting: Setting) -> float:
    """The smallest number that a setting says."""
    return min(_ends(setting))


def _ends(setting: Setting) -> list[float]:
    if not isinstance(setting, Mapping):
        return [setting]
    return [float(setting[key]) for key in ("from", "to", "peak") if key in setting]


def in_short(setting: Setting) -> str:
    """``0.5``, or ``1 → 0 (cosine)``."""
    if not isinstance(setting, Mapping):
        return f"{setting:g}"
    read = schedule_of(setting, "")
    return f"{read.start:g} → {read.end:g} ({read.rule})"


def start_of(setting: Setting) -> float:
    """A setting before a phase's first step."""
    return float(setting["from"]) if isinstance(setting, Mapping) else setting


def schedule_of(setting: Setting, place: str) -> Schedule:
    """Read a setting; a plain number is one that never moves.

    Args:
        setting: as a config says it.
        place: its name, for errors.

    Raises:
        InputError: it cannot be read.
    """
    if not isinstance(setting, Mapping):
        return Schedule(start=setting, end=setting, steps=0, rule="constant")
    try:
        read = _checked(setting, float)
    except InputError as error:
        raise InputError(f"{place}{error}") from None
    return Schedule(
        start=read["from"],
        end=read.get("to", read["from"]),
        steps=read.get("steps"),
        rule=read.get("rule", "linear"),
        options={key: read[key] for key in read if key not in _KEYS},
    )


def _checked(setting: Mapping[str, Any], number: Any) -> dict[str, Any]:
    """With numbers of their types; an error goes on after the setting's name."""
    rule = checked(str, setting.get("rule", "linear"), ".rule")
    needed = ("from",) if rule == "constant" else ("from", "to")
    more = NEEDED.get(rule, ())
    for key in (*needed, *more):
        if key not in setting:
            also = "".join(f", {key}: a number" for key in more)
            raise InputError(
                f" is {shown(dict(setting))}, which does not say {key!r}; a schedule "
                f"is {{from: a number, to: a number{also}, steps: an integer, rule: a "
                "name}"
            )
    types = {"from": number, "to": number, "steps": Count | None, "rule": str}
    if rule in RULES:
        types |= _options_of(rule)
    if "peak" in types:
        types["peak"] = number
    read = dict(setting)
    for key, value in setting.items():
        if key in types:
            read[key] = checked(types[key], value, f".{key}", from_text=True)
        elif rule in RULES:
            raise InputError(
                f".{key} is not known{meant(str(key), types)} The rule {rule} has "
                f"{', '.join(types)}"
            )
    start, end = read["from"], read.get("to", read["from"])
    for name, value in (("from", start), ("to", end)):
        if not math.isfinite(value):
            raise InputError(f".{name} is {value}; give a finite number")
    options = {key: read[key] for key in read if key not in _KEYS}
    if problem := problem_of(rule, start, end, read.get("steps"), options):
        raise InputError(f": the rule {rule} {problem}")
    return read


@cache
def _options_of(rule: str) -> dict[str, Any]:
    hints = get_type_hints(RULES[rule], include_extras=True)
    parameters = inspect.signature(RULES[rule]).parameters.values()
    return {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}
