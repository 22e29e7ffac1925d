"""What guards share: whose fault it is, how often to look, what a module becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from align.errors import MtkdError
from plugins.entry import Entry
from plugins.errors import PluginCrashError, PluginError
from plugins.untouched import Untouched, tensors_of


@contextmanager
def blamed(entry: Entry) -> Iterator[None]:
    """Name the plugin in whatever is raised inside.

    Raises:
        PluginError: it refused something itself, with an error of the project's.
        PluginCrashError: anything else; the cause is its exception.
    """
    try:
        yield
    except PluginError as error:
        if error.name is not None:
            raise
        raise entry.error(str(error)) from error
    except MtkdError as error:
        raise entry.error(str(error)) from error
    except (Exception, SystemExit) as error:  # which a plugin may not end, either
        problem = f"{type(error).__name__}: {error}".rstrip(": ")
        raise entry.error(problem, PluginCrashError) from error


def require(entry: Entry, problem: str) -> None:
    """Raise what is wrong, if anything is."""
    if problem:
        raise entry.error(problem)


def made_by(
    entry: Entry, factory: Callable[..., Any], *given: Any, **options: Any
) -> Any:
    """What a factory makes, the process left as it was."""
    before = Untouched({})
    with blamed(entry):
        made = factory(*given, **options)
    require(entry, before.problem())
    return made


class Seldom:
    """True at the first call, the second, the fourth, the eighth, and so on."""

    def __init__(self) -> None:
        """Count from nought."""
        self._calls = 0

    def now(self) -> bool:
        """Whether to look at this call."""
        self._calls += 1
        return self._calls & (self._calls - 1) == 0


def partitioned(module: nn.Module) -> bool:
    """Whether processes hold parts of it, who must all ask equally often."""
    return any(hasattr(p, "ds_id") for p in module.parameters())


class StandIn:
    """In place of an object that is no module; attributes are its own."""

    def __init__(self, entry: Entry, inner: Any) -> None:
        """Hold whose it is."""
        self._entry, self._inner = entry, inner

    def __getattr__(self, name: str) -> Any:
        """What the object itself has."""
        if name.startswith("__") or name in ("_entry", "_inner"):
            raise AttributeError(name)
        return getattr(self._inner, name)


def all_finite(given: Any, module: Any) -> bool:
    """Whether all that went in is finite, parameters as well; only asked in trouble."""
    inputs = [x for _, x in tensors_of(given)]
    parameters = list(module.parameters()) if isinstance(module, nn.Module) else []
    return all(bool(x.isfinite().all()) for x in [*inputs, *parameters])


def guarded_module(
    module: Any,
    call: Callable[..., Any],
    watched: Mapping[str, Any] | None = None,
    takes: int = 1,
) -> Any:
    """The same module, whose calls go through ``call``.

    Its class becomes a subclass that differs in ``__call__`` and in what is watched
    alone, so that its parameters, state and name stay, and a deep copy is guarded as
    well.

    Args:
        module: what a stranger made.
        call: takes its own call and the arguments.
        watched: methods and properties by name, in place of its own.
        takes: how many arguments; a call with others is not watched.
    """
    plain = type(module)

    class Guarded(plain):  # type: ignore[misc, valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if len(args) != takes or kwargs:
                return super().__call__(*args, **kwargs)
            return call(super().__call__, *args)

    for name, value in (watched or {}).items():
        setattr(Guarded, name, value)
    return become(module, Guarded)


def become(module: Any, guarded: type) -> Any:
    """The same module, of a subclass that is called as its own class is."""
    plain = type(module)
    guarded.__name__, guarded.__qualname__ = plain.__name__, plain.__qualname__
    guarded.__module__ = plain.__module__
    module.__class__ = guarded
    return module
