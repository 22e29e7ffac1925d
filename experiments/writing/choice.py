"""Which way of writing a config or a command asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.errors import InputError
from experiments.config.parsing import check
from fuse.config import choice_of
from plugins.options import options_of
from plugins.registry import Registry
from plugins.trial import Name, try_used
from teacher.writing import Way

KIND = "writer"


def way_of(
    chosen: str | Mapping[str, Any], registry: Registry, place: str = "writer"
) -> Way:
    """What ``NAME``, or ``{use: NAME, option: value}``, stands for.

    Args:
        chosen: as a config says it.
        registry: knows the names.
        place: where it stands, for errors.

    Raises:
        ConfigError: an option that it has not, or of another type.
        InputError: no name, or a value out of its range.
        PluginError: no such way.
    """
    try:
        name, options = choice_of(place, chosen)
    except ValueError as error:
        raise InputError(str(error)) from None
    check(options_of(registry.entry(KIND, name).value), options, place)
    way: Way = registry.guarded(KIND, name)(**options)
    return way


def try_way(chosen: str | Mapping[str, Any], registry: Registry) -> None:
    """Put a stranger's way of writing through its contract.

    Raises:
        PluginError: a promise is broken.
    """
    name, options = choice_of("writer", chosen)
    used: Name = (KIND, name)
    try_used(registry, [used], options={used: [options]})
