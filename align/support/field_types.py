"""What a setting may be: its type, choices and range, written once as its annotation.

A config's field is annotated with one of the types below, or with any of ``typing``'s;
the annotation is the whole rule. pydantic checks it, errors and ``docs/config.md`` say
it in the words of :func:`in_words`. Choices are a ``Literal``.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Interval

from align.errors import InputError

_CHOSEN = re.compile(r"[a-z0-9][a-z0-9_-]*")
_OPTIONS = dict[str, Any]
_BY_NAME = dict[str, dict[str, Any]]
"""Plugins by names of a user's choice: ``{NAME: {use: KIND, option: value}}``."""

Count = Annotated[int, Interval(ge=0)]
AtLeastOne = Annotated[int, Interval(ge=1)]
NotNegative = Annotated[float, Interval(ge=0, lt=math.inf)]
Positive = Annotated[float, Interval(gt=0, lt=math.inf)]
PositiveOrInfinite = Annotated[float, Interval(gt=0, le=math.inf)]
Share = Annotated[float, Interval(ge=0, le=1)]
ShareAboveZero = Annotated[float, Interval(gt=0, le=1)]
ShareBelowOne = Annotated[float, Interval(ge=0, lt=1)]
"""No range holds nan: no comparison with it is true."""
_INT64 = 1 << 63
_BELOW = "give a number that 64 bits hold"
_LONGEST_SHOWN = 200
REFUSED = "refused"
"""Type of a pydantic error whose message goes on after the setting's name: of a mark
that checks what it stands on itself, and says by ``words`` what that is."""


@dataclasses.dataclass(frozen=True, slots=True)
class PluginName:
    """Marks a setting that names a plugin, ``NAME`` or ``{use: NAME, option: value}``.

    Whoever builds what has the setting hands over what the name stands for.
    """

    kind: str
    """Such as ``distance``."""

    @property
    def words(self) -> str:
        """What the setting takes."""
        return f"the name of a {self.kind}, or {{use: NAME}} with its options"


def plugin_kind(hint: Any) -> str | None:
    """The kind of plugin that a setting of this type names; None: it names none."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, PluginName):
            return mark.kind
    inside = get_args(hint) if is_union(hint) else ()
    return next((kind for arm in inside if (kind := plugin_kind(arm))), None)


def check_fields(section: object, place: str) -> None:
    """Check every field of a config's section against its annotation.

    Args:
        section: a dataclass instance; sections inside it have been checked already.
        place: the section's name in the config, such as ``train``.

    Raises:
        InputError: the first field that does not fit; see :func:`checked`.
    """
    cls: Any = type(section)
    for name, (hint, adapter) in _leaves(cls).items():
        _fitting(adapter, hint, getattr(section, name), f"{place}.{name}")


def checked(hint: Any, value: Any, place: str, from_text: bool = False) -> Any:
    """Give a value as its type has it: an integer becomes a number where one is asked.

    Args:
        hint: the annotation, range included.
        value: what was given; an entry of it that does not fit is named itself.
        place: the setting's whole name, for errors.
        from_text: whether a text may stand for a number, as in ``steps: "5"``.

    Returns:
        The value; no number in it is nan, infinite (but where the type says ``.inf``),
        or an integer that 64 bits cannot hold, and no zero is negative.

    Raises:
        InputError: naming the place, the value and what is valid.
    """
    return _fitting(_adapter(hint), hint, value, place, from_text)


def _fitting(
    adapter: Any, hint: Any, value: Any, place: str, from_text: bool = False
) -> Any:
    from pydantic import ValidationError

    try:
        if from_text and isinstance(value, str):
            fitting = adapter.validate_strings(value)
        else:
            fitting = adapter.validate_python(value)
    except ValidationError as error:
        raise _refusal(hint, value, place, error.errors()) from None
    return _bounded(fitting, hint, place)


def shown(value: Any) -> str:
    """A value in an error, on one line and not longer than a line."""
    if value is None:
        return "null"
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"{type(value).__name__} with a number of thousands of digits"
    if len(text) <= _LONGEST_SHOWN:
        return text
    return f"{text[:_LONGEST_SHOWN]}… ({len(text):,} characters)"


def in_words(hint: Any, quote: Any = repr) -> str:
    """Say what a field takes: ``an integer >= 1 or null``, ``one of 'a', 'b'``.

    Args:
        hint: the annotation.
        quote: how a choice is written.
    """
    words = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "a text",
        Any: "anything",
        type(None): "null",
        _OPTIONS: "a mapping of options",
        str | _OPTIONS: "a name, or {use: NAME} with options",
    }
    if hint in words:
        return words[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for mark in hint.__metadata__:
            if hasattr(mark, "words"):  # it says what the whole is
                return str(mark.words)
        marks = "".join(f" {_range(mark)}" for mark in hint.__metadata__)
        return in_words(args[0], quote) + marks
    if origin is Literal:
        choices = ", ".join(quote(choice) for choice in args)
        return f"one of {choices}" if len(args) > 1 else choices
    if is_union(hint):
        return " or ".join(in_words(arg, quote) for arg in args)
    if origin is list:
        return f"a list, each entry {in_words(args[0], quote)}"
    if origin in (dict, Mapping):
        return f"a mapping from names, each to {in_words(args[1], quote)}"
    return str(hint)


def is_union(hint: Any) -> bool:
    """Whether a type is a choice of types."""
    return get_origin(hint) in (Union, types.UnionType)


def _range(mark: Interval) -> str:
    """``>= 0``, ``in (0, 1]``, as mathematics has it."""
    low = mark.gt if mark.ge is None else mark.ge
    above = f"> {low}" if mark.ge is None else f">= {low}"
    high = mark.lt if mark.le is None else mark.le
    if high is None or high == math.inf:
        return above if mark.le is None else f"{above} or .inf"
    left, right = "[("[mark.ge is None], "])"[mark.le is None]
    return f"in {left}{low}, {high}{right}"


def _refusal(hint: Any, value: Any, place: str, errors: Sequence[Any]) -> InputError:
    """Word what does not fit, as deep inside lists and mappings as pydantic says."""
    by_mark = [error for error in errors if error["type"] == REFUSED]
    for step in (by_mark or errors)[0]["loc"]:
        if hint == _BY_NAME and step == "use":  # it was to be inside an entry
            break
        arms = [arm for arm in get_args(hint) if arm is not type(None)]
        if is_union(hint) and len(arms) == 1:  # X | None: pydantic names no arm
            hint = arms[0]
        if get_origin(hint) is dict:
            hint, value, place = get_args(hint)[1], value[step], f"{place}.{step}"
        elif get_origin(hint) is list:
            hint, value, place = get_args(hint)[0], value[step], f"{place}[{step}]"
        else:
            break
    if by_mark and isinstance(value, Mapping):
        return InputError(f"{place}{by_mark[0]['msg']}")
    return InputError(
        f"{place} is {shown(value)}; give {in_words(hint)}{_listed(hint, value)}"
    )


def _listed(hint: Any, value: Any) -> str:
    """How texts are written where a list of them is asked for, or what they name."""
    if hint == list[str] and _plain(value):
        return f", such as [{value}]"
    if hint != _BY_NAME:
        return ""
    named = value.get("use") if isinstance(value, Mapping) else value
    names = named if isinstance(named, list) else [named]
    if not names or not all(map(_plain, names)):
        return ", such as {NAME: {option: value}}"
    return ", such as {" + ", ".join(f"{name}: {{}}" for name in names) + "}"


def _plain(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[\w./~-]{1,60}", value))


def _bounded(value: Any, hint: Any, place: str) -> Any:
    """A value that fits, once more without numbers that nothing can be done with."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise InputError(f"{place} is {shown(value)}; {_BELOW}, {in_words(hint)}")
        return value
    if isinstance(value, float):
        if not math.isfinite(value) and not _takes_infinity(hint):
            valid = "a finite number" if hint in (float, Any) else in_words(hint)
            raise InputError(f"{place} is {value}; give {valid}")
        return value + 0.0  # -0.0 + 0.0 is 0.0
    if isinstance(value, dict):
        inside = _entry(hint)
        return {k: _bounded(x, inside, f"{place}.{k}") for k, x in value.items()}
    if isinstance(value, list):
        inside = _entry(hint)
        return [_bounded(x, inside, f"{place}[{i}]") for i, x in enumerate(value)]
    return value


def _takes_infinity(hint: Any) -> bool:
    """Whether a range of the type ends at infinity and has it."""
    if get_origin(hint) is Annotated:
        return any(getattr(mark, "le", None) == math.inf for mark in hint.__metadata__)
    return is_union(hint) and any(map(_takes_infinity, get_args(hint)))


def _entry(hint: Any) -> Any:
    """The type of a list's or mapping's entries, where the type says one."""
    arms = get_args(hint) if is_union(hint) else (hint,)
    kinds = [get_args(arm)[-1] for arm in arms if get_origin(arm) in (list, dict)]
    return kinds[0] if kinds else Any


@cache
def _adapter(hint: Any) -> Any:
    """What checks a type, and makes no number of a text in silence."""
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(strict=True))


@cache
def _leaves(cls: Any) -> dict[str, tuple[Any, Any]]:
    """Type of each field that is no section, with what checks it: to look that up by
    its type takes longer than to check."""
    hints = get_type_hints(cls, include_extras=True)
    leaves = {k: x for k, x in hints.items() if not dataclasses.is_dataclass(x)}
    return {name: (hint, _adapter(hint)) for name, hint in leaves.items()}


def named_choice(
    name: Any, entry: Any, place: str, kind: str, example: str
) -> tuple[str, dict[str, Any]]:
    """Take apart an entry of ``{NAME: {use: KIND_NAME, option: value}}``.

    Args:
        name: of the entry.
        entry: what stands behind it.
        place: the setting that holds it, for errors.
        kind: of plugin, as ``mtkd plugins list --kind`` knows it.
        example: of the setting, for errors: ``{fake_quant: {bits: 4}}``.

    Returns:
        What is chosen, the name where ``use`` is left out; and what else stands there.

    Raises:
        InputError: no name, no mapping, or no name of a plugin.
    """
    if not isinstance(name, str) or not _CHOSEN.fullmatch(name):
        raise InputError(
            f"{place} has {shown(name)}; name a {kind} with lower-case letters, "
            f"digits, '_' and '-', as in {example}"
        )
    if not isinstance(entry, Mapping):
        raise InputError(
            f"{place}.{name} is {shown(entry)}; give a mapping, as in {example}"
        )
    rest = dict(entry)
    chosen = rest.pop("use", name)
    if not isinstance(chosen, str) or not _CHOSEN.fullmatch(chosen):
        raise InputError(
            f"{place}.{name}.use is {shown(chosen)}; give the name of a registered "
            f"{kind} (`mtkd plugins list --kind {kind}`)"
        )
    return chosen, rest
