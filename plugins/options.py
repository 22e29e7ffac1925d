"""What a config may say to a plugin beside its name: its keyword-only parameters.

An option may itself name a plugin; then what it names is handed over as it stands.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import partial, wraps
from typing import Any, TypeVar, get_type_hints
from weakref import WeakKeyDictionary

from align.support.field_types import plugin_kind
from fuse.config import choice_of
from plugins.errors import PluginError

Answer = TypeVar("Answer")


def _once(ask: Callable[[Any], Answer]) -> Callable[[Any], Answer]:
    """Ask once for each factory: a config's check asks for the same ones many times."""
    answers: WeakKeyDictionary[Any, Answer] = WeakKeyDictionary()

    @wraps(ask)
    def answer(factory: Any) -> Answer:
        try:
            if factory not in answers:
                answers[factory] = ask(factory)
            return answers[factory]
        except TypeError:  # an object that is no key
            return ask(factory)

    return answer


@_once
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
    hints = hints_of(factory)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One plugin that an option names."""

    kind: str
    name: str
    options: Mapping[str, Any]
    """Of the plugin, by name."""

    @property
    def plugin(self) -> tuple[str, str]:
        """Kind and name."""
        return self.kind, self.name


def choices(
    factory: Callable[..., Any], options: Mapping[str, Any], place: str = ""
) -> dict[str, Choice]:
    """What the given options of a factory name, by option.

    Args:
        factory: whose options they are, some marked by ``PluginName``.
        options: as a config says them; what has another type is left to its check.
        place: where they stand, for errors.

    Raises:
        PluginError: an option names nothing.
    """
    named = {}
    for option, hint in hints_of(factory).items():
        kind, value = plugin_kind(hint), options.get(option)
        if kind is not None and isinstance(value, str | Mapping):
            try:
                name, inside = choice_of(f"{place}{option}", value)
            except ValueError as error:
                raise PluginError(str(error)) from error
            named[option] = Choice(kind=kind, name=name, options=inside)
    return named


def resolved(
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    look_up: Callable[[str, str], Any],
) -> dict[str, Any]:
    """The options, with factories in the place of names.

    Args:
        factory: whose options they are.
        options: as a config says them.
        look_up: from kind and name to what it stands for, as ``Registry.guarded``.

    Raises:
        PluginError: a name is unknown.
    """
    made = {
        option: with_options(look_up(choice.kind, choice.name), choice.options)
        for option, choice in choices(factory, options).items()
    }
    return {**options, **made}


def _same(value: Any) -> Any:
    return value


@_once
def hints_of(factory: Any) -> Mapping[str, Any]:
    """The types of what a factory takes, by name; none that a checker alone sees."""
    while isinstance(factory, partial):
        factory = factory.func
    function = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:  # a name that only a type checker sees
        return {}
