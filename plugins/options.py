"""What a config may say to a plugin beside its name: its keyword-only parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import field, make_dataclass
from functools import partial
from typing import Any, get_type_hints

from plugins.errors import PluginError


def options_of(factory: Callable[..., Any]) -> type:
    """The options of a factory, as the schema by which a config is checked.

    ``def __init__(self, hidden_dim, num_teachers, *, evidence: float = 1.0)`` has one
    option, ``evidence``; a dataclass with ``kw_only=True`` has its fields.

    Args:
        factory: a class or a function.

    Returns:
        A dataclass with a field for each, of its type and default.

    Raises:
        PluginError: an option has no default: a config may always leave it out.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # built in, without a signature
        parameters = {}.values()
    bound = factory.keywords if isinstance(factory, partial) else {}
    chosen = [
        p
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in bound
    ]
    for parameter in chosen:
        if parameter.default is inspect.Parameter.empty:
            raise PluginError(
                f"{getattr(factory, '__name__', factory)} takes {parameter.name!r} "
                "without a default; give it one, so that a config may leave it out"
            )
    hints = _hints(factory)
    fields = [
        (
            parameter.name,
            hints.get(parameter.name, Any),
            field(default_factory=partial(_same, parameter.default)),
        )
        for parameter in chosen
    ]
    return make_dataclass("Options", fields, frozen=True, kw_only=True)


def with_options(factory: Any, options: Mapping[str, Any]) -> Any:
    """A factory that makes what it makes with some options, and says the same of it."""
    made = partial(factory, **options)
    for fact in ("learns", "needs_sample", "needs"):
        if hasattr(factory, fact):
            setattr(made, fact, getattr(factory, fact))
    return made


def _same(value: Any) -> Any:
    return value


def _hints(factory: Any) -> dict[str, Any]:
    while isinstance(factory, partial):
        factory = factory.func
    function = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:  # a name that only a type checker sees
        return {}
