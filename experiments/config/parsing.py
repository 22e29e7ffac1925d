"""Turn plain YAML data into dataclasses, and refuse what does not fit.

The types are the schema: nested dataclasses are sections, a ``dict[str, X]`` is a
section with names of the user's choosing, everything else is a leaf, which pydantic
checks (``align.support.field_types``). The walk over sections is ours: it knows where a
scalar was typed on a command line, leaves a phase's sections partial, and answers an
unknown key with the nearest one, which pydantic has no place for.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from align.bounds.regular_file import bytes_of
from align.bounds.yaml_document import DEEPEST, MOST_CHARS, read_yaml
from align.errors import InputError, MissingFileError
from align.support.field_types import checked, is_union, shown
from experiments.config.schema import (
    ConfigError,
    describe_type,
    entry_of,
    hints_of,
    join,
    named_section,
    section_of,
    unknown_key,
)

__all__ = [
    "ConfigError",
    "Typed",
    "build",
    "check",
    "leaf",
    "load_mapping",
    "load_yaml",
    "merge",
    "parse_override",
    "plain",
]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Typed:
    """A scalar typed on a command line, still as text.

    Whether ``5`` is a number or a name depends on the field, so the decision waits
    for the field's type.
    """

    text: str


def load_yaml(text: str, source: str) -> Any:
    """Parse YAML as :func:`align.bounds.yaml_document.read_yaml` does.

    Raises:
        ConfigError: in place of that function's InputError.
    """
    try:
        return read_yaml(text, source)
    except InputError as error:
        raise ConfigError(str(error)) from None


def load_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file which must hold a mapping.

    Raises:
        ConfigError: no such file, a pipe or the like, too large, not UTF-8, not YAML,
            or not a mapping.
    """
    try:
        text = bytes_of(path, MOST_CHARS, "a config").decode()
    except MissingFileError:
        raise ConfigError(f"config file {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"config file {path} is not UTF-8 at byte {error.start}; save it as UTF-8"
        ) from None
    except InputError as error:
        raise ConfigError(f"config file {error}") from None
    data = load_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"config file {path} holds a {type(data).__name__}; "
            "give a mapping such as 'student: {model: gpt2}'"
        )
    return data


def parse_override(item: str) -> dict[str, Any]:
    """Turn ``fuse.temperature=0.5`` into ``{"fuse": {"temperature": 0.5}}``.

    Lists and mappings are YAML (``data.train=[a.txt, b.txt]``); scalars stay
    :class:`Typed` until the field's type is known.

    Raises:
        ConfigError: no ``=``, an empty key, or a value which is not YAML, or in which
            a colon without a blank behind it makes a name of a setting.
    """
    key, equals, text = item.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"override {shown(item)} is not of the form section.key=value; "
            "for example fuse.temperature=0.5"
        )
    if len(parts) > DEEPEST:
        raise ConfigError(
            f"override {shown(key)} has {len(parts)} names one inside the other; a "
            f"setting has at most {DEEPEST}"
        )
    value = load_yaml(text, f"the value of override {shown(key)}")
    if glued := next(_glued(value), ""):
        raise ConfigError(
            f"override {shown(key)} has {glued!r}, which YAML takes for a name; put a "
            f"blank behind the colon: {glued.replace(':', ': ', 1)!r}"
        )
    nested: Any = value if isinstance(value, list | dict) else Typed(text)
    for part in reversed(parts):
        nested = {part: nested}
    return typing.cast(dict[str, Any], nested)


def _glued(value: Any) -> Iterator[str]:
    """Names without a value that have a colon in them, at any depth."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if entry is None and isinstance(key, str) and ":" in key:
                yield key
            yield from _glued(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _glued(entry)


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree over another: mappings join, anything else replaces.

    An empty mapping has nothing to join: it replaces, so that ``loss.terms={}`` leaves
    no term.
    """
    joined = dict(base)
    for key, value in top.items():
        below = joined.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping) and value:
            joined[key] = merge(below, value)
        else:
            joined[key] = value
    return joined


def build(cls: type[T], data: Any, path: str = "", root: type | None = None) -> T:
    """Make a checked dataclass from plain data.

    Args:
        cls: a dataclass; fields of dataclass type are sections of it.
        data: nested mappings, lists and scalars, as YAML gives them.
        path: where ``data`` stands in the whole config, for errors.
        root: type of the whole config, whose names an error may suggest.

    Raises:
        ConfigError: an unknown key, a wrong type, a missing required key, or a
            value which the dataclass itself refuses.
    """
    values = check(cls, data, path, root)
    for field in dataclasses.fields(typing.cast(Any, cls)):
        required = (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        )
        if required and field.name not in values:
            hint = describe_type(hints_of(typing.cast(Any, cls))[field.name])
            raise ConfigError(f"{join(path, field.name)} is missing; give {hint}")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        # a section of many of a kind does not know which of them it is
        kind = f"{path.rpartition('.')[0]}.NAME"
        raise ConfigError(str(error).replace(kind, path)) from error


def check(
    cls: type,
    data: Any,
    path: str = "",
    root: type | None = None,
    partial: bool = False,
) -> dict[str, Any]:
    """Check the keys and types of a section.

    Args:
        cls: the dataclass the section belongs to.
        data: any subset of its fields.
        path: where ``data`` stands, for errors.
        root: type of the whole config, for suggestions.
        partial: leave the sections inside as mappings, filling in nothing.

    Returns:
        The given keys with values of the fields' types.

    Raises:
        ConfigError: an unknown key or a wrong type.
    """
    hints = hints_of(cls)
    section = _mapping(data, path, describe_type(cls))
    for key in section:
        if key not in hints:
            raise unknown_key(join(path, key), root or cls, known=hints)
    return {
        key: _value(hints[key], value, join(path, key), root or cls, partial)
        for key, value in section.items()
    }


def plain(value: Any) -> Any:
    """Turn dataclasses and tuples into mappings and lists, ready for YAML."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _value(hint: Any, raw: Any, path: str, root: type, partial: bool) -> Any:
    named = named_section(hint)
    if named is not None:
        return {
            str(key): _value(named, value, join(path, key), root, partial)
            for key, value in _mapping(raw, path, describe_type(hint)).items()
        }
    section, stays_partial = section_of(hint)
    if section is None:
        return leaf(hint, raw, path)
    if partial or stays_partial:
        return check(section, raw, path, root, partial=True)
    return build(section, raw, path, root)


def leaf(hint: Any, raw: Any, path: str) -> Any:
    """Check one value against its type.

    A mapping from names of the user's choosing is checked entry by entry, so that an
    override may set one of them: ``loss.extra.mine=0.5``.

    Raises:
        ConfigError: names the path, the value and what is valid.
    """
    entry = entry_of(hint)
    if isinstance(raw, Mapping) and entry is not None:
        return {str(key): leaf(entry, x, join(path, key)) for key, x in raw.items()}
    if not isinstance(raw, Typed):
        return _checked(hint, _untyped(raw), path)
    try:
        return leaf(hint, load_yaml(raw.text, path), path)
    except ConfigError:
        if hint is str or (is_union(hint) and str in get_args(hint)):
            return raw.text
        raise


def _untyped(raw: Any) -> Any:
    """What was typed, as text, wherever it stands: no name of ours is shown."""
    if isinstance(raw, Typed):
        return raw.text
    if isinstance(raw, Mapping):
        return {key: _untyped(value) for key, value in raw.items()}
    return raw


def _checked(hint: Any, raw: Any, path: str) -> Any:
    try:
        return checked(hint, raw, path, from_text=True)
    except InputError as error:
        raise ConfigError(str(error)) from None


def _mapping(data: Any, path: str, valid: str) -> Mapping[str, Any]:
    if data is None:
        return {}  # a section without keys, as YAML reads "train:" and nothing more
    if isinstance(data, Mapping):
        return data
    raise ConfigError(
        f"{path or 'the config'} is {shown(_untyped(data))}; give {valid}"
    )
