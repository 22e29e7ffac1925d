"""Read a config's schema from its dataclasses: sections, names, types in words."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

from align.errors import InputError
from align.support.field_types import in_words, is_union, shown
from experiments.config.synonyms import called_here

ANY_NAME = "<name>"
"""Stands for a key the user chooses, in the names :func:`valid_names` yields."""
_LONGEST_NAME = 200
"""Of what may be a name mistyped; likeness takes time as the square of its length."""


class ConfigError(InputError):
    """A setting which cannot be used; the message says where and what is valid."""


@dataclasses.dataclass(frozen=True, slots=True)
class Partial:
    """Marks a mapping as any subset of a section's fields.

    ``Annotated[dict[str, Any], Partial(FuseConfig)]`` stays a mapping after the
    check; nothing is filled in, so it can be laid over a full section later.
    """

    section: type
    """The dataclass whose keys and types the mapping obeys."""


@functools.cache
def hints_of(cls: type) -> Mapping[str, Any]:
    """Give the type of every field, marks included; read once, as each is compiled."""
    return MappingProxyType(get_type_hints(cls, include_extras=True))


def section_of(hint: Any) -> tuple[type | None, bool]:
    """Give the dataclass a hint stands for, and whether it stays partial."""
    if dataclasses.is_dataclass(hint):
        return typing.cast(type, hint), False
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, Partial):
            return mark.section, True
    return None, False


def named_section(hint: Any) -> Any:
    """Give X of ``dict[str, X]`` where X is a section, else None."""
    args = get_args(hint)
    if get_origin(hint) is dict and section_of(args[1])[0] is not None:
        return args[1]
    return None


def entry_of(hint: Any) -> Any:
    """Give X of ``dict[str, X]``, also within a choice of types, else None."""
    if is_union(hint):
        return next((x for x in map(entry_of, get_args(hint)) if x is not None), None)
    return get_args(hint)[1] if get_origin(hint) is dict else None


def valid_names(cls: type, prefix: str = "") -> Iterator[str]:
    """Yield every dotted name of a config type, sections included."""
    for key, hint in hints_of(cls).items():
        name = join(prefix, key)
        yield name
        named = named_section(hint)
        nested, _ = section_of(hint if named is None else named)
        if nested is not None:
            chosen = name if named is None else join(name, ANY_NAME)
            yield from valid_names(nested, chosen)


def nearest_name(wrong: str, names: Iterable[str]) -> str | None:
    """Find the valid dotted name most like a wrong one.

    The last part counts too, on its own, so that a right key in the wrong section
    (``train.temperature``) finds its home. Chosen names (:data:`ANY_NAME`) are
    filled in from ``wrong``.
    """
    best, best_score = None, 0.72
    for name in names:
        filled = _fill(name, wrong)
        whole = difflib.SequenceMatcher(None, wrong, filled).ratio()
        tails = wrong.rpartition(".")[2], filled.rpartition(".")[2]
        tail = difflib.SequenceMatcher(None, *tails).ratio()
        score = max(whole, 0.95 * tail) + 0.01 * whole
        if score > best_score:
            best, best_score = filled, score
    return best


def unknown_key(path: str, root: type, known: Iterable[str] = ()) -> ConfigError:
    """Say that a key does not exist, and which one was probably meant."""
    too_long = len(path) > _LONGEST_NAME
    synonym = None if too_long else called_here(path, valid_names(root))
    if synonym is not None:
        return ConfigError(f"unknown config key {path!r}; here it is {synonym}")
    nearest = None if too_long else nearest_name(path, valid_names(root))
    if nearest == path:
        *outer, last = path.split(".")
        nested = (
            "".join(f"{name}: {{" for name in outer) + f"{last}: …" + "}" * len(outer)
        )
        return ConfigError(
            f"{path!r} is one key of a file, where each name stands inside of the one "
            f"before it; write {nested}"
        )
    meant = f"; did you mean {nearest!r}?" if nearest else "."
    section, _, _ = path.rpartition(".")
    where = shown(section) if section else "the top level"
    listed = ", ".join(sorted(known))
    valid = f" Valid in {where}: {listed}." if listed else ""
    return ConfigError(f"unknown config key {shown(path)}{meant}{valid}")


def describe_type(hint: Any) -> str:
    """Say in words what a section or a field takes."""
    named = named_section(hint)
    if named is not None:
        return f"a mapping from names, each to {describe_type(named)}"
    section, _ = section_of(hint)
    if section is not None:
        return "a section with keys " + ", ".join(hints_of(section))
    return in_words(hint)


def join(path: str, key: object) -> str:
    """Append a key to a dotted path."""
    return f"{path}.{key}" if path else str(key)


def _fill(name: str, wrong: str) -> str:
    given = wrong.split(".")
    parts = name.split(".")
    return ".".join(
        given[i] if part == ANY_NAME and i < len(given) else part
        for i, part in enumerate(parts)
    )
