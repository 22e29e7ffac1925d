"""Everything that a config can call by name, built-in or not.

Loaded once, when an experiment starts; immutable afterwards. A new kind needs a
hookspec and nothing here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pluggy

from align.errors import nearest
from align.support.field_types import shown
from plugins import builtin, discovery, hookspecs
from plugins.discovery import Found, Say
from plugins.entry import EARLIER, PROJECT, Entry, kind_now, version_of_mtkd
from plugins.errors import Failure, PluginError
from plugins.guards import guard
from plugins.source import digest

_SINGULAR = {"curricula": "curriculum"}

KINDS: dict[str, str] = {
    _SINGULAR.get(hook.__name__, hook.__name__.removesuffix("s")): hook.__name__
    for hook in hookspecs.HOOKS
    if hook.__name__.removesuffix("s") not in EARLIER
}
"""Kind (``router``) -> hook (``routers``), read from the hookspecs."""

_HOOKS = [*KINDS.items(), *((kind, f"{earlier}s") for earlier, kind in EARLIER.items())]
"""Kind and hook, with the names that hooks had before."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Registry:
    """Named things of every kind; build it with :meth:`load`."""

    def __init__(
        self, entries: Iterable[Entry], failures: Sequence[Failure] = ()
    ) -> None:
        """Collect entries; two of one kind and name are refused.

        Raises:
            PluginError: naming both plugins that claim a name.
        """
        self._entries: dict[tuple[str, str], Entry] = {}
        self.failures = tuple(failures)
        for entry in entries:
            key = (entry.kind, entry.name)
            if key in self._entries:
                raise PluginError(
                    f"two plugins claim the {entry.kind} {entry.name!r}: "
                    f"{self._entries[key].origin} and {entry.origin}; rename one, or "
                    "skip one of the plugins"
                )
            self._entries[key] = entry

    @staticmethod
    def load(
        plugins: Sequence[str | object] = (),
        entry_points: bool = True,
        strict: bool = True,
        skip: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        say: Say = lambda line: None,
    ) -> Registry:
        """Load built-ins, installed plugins, then those asked for.

        Args:
            plugins: module names, paths of .py files, or objects with hooks.
            entry_points: whether installed plugins (group ``mtkd``) load at all;
                the environment variables ``MTKD_PLUGINS`` (an allow-list) and
                ``MTKD_NO_PLUGINS=1`` restrict them further.
            strict: whether an installed plugin that fails is an error. If not, it
                is skipped and listed in ``failures``. Plugins asked for by name
                must always work, and a duplicate name is always an error.
            skip: entry points or distributions that are not even imported.
            environ: the environment; None: the process's own.
            say: told the SHA-256 of each .py file before its code runs.

        Raises:
            PluginError: naming the plugin, its distribution and the reason.
        """
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(hookspecs)
        entries = _entries(
            manager, Found(builtin, "built-in", PROJECT, version_of_mtkd())
        )
        offers, failures = (
            discovery.installed(skip, environ) if entry_points else ([], [])
        )
        _raise_first(failures if strict else [])
        for plugin in offers:
            try:
                entries += _entries(manager, plugin)
            except PluginError as error:
                failed = Failure(
                    plugin.name, plugin.distribution, plugin.version, str(error)
                )
                failures.append(failed)
                _raise_first([failed] if strict else [])
        for wanted in plugins:
            name = wanted if isinstance(wanted, str) else type(wanted).__name__
            plugin = (
                discovery.by_name(wanted, say)
                if isinstance(wanted, str)
                else Found(wanted, getattr(wanted, "__name__", name), "-", "-")
            )
            entries += _entries(manager, plugin)
        return Registry(entries, failures)

    def get(self, kind: str, name: str) -> Any:
        """What a name stands for.

        Args:
            kind: a key of :data:`KINDS`, such as ``router``.
            name: as a config says it.

        Returns:
            The factory, function or mapping; see the kind's hookspec.

        Raises:
            PluginError: listing what is available, the nearest name, and any
                plugin that was skipped because it failed.
        """
        return self.entry(kind, name).value

    def guarded(self, kind: str, name: str) -> Any:
        """What a name stands for, as a run uses it.

        Strangers' code is checked at every call, see :mod:`plugins.guards`: what it
        raises, or answers against its contract, names its plugin.

        Raises:
            PluginError: as :meth:`get`.
        """
        entry = self.entry(kind, name)
        return guard(entry, entry.value) if entry.foreign else entry.value

    def entry(self, kind: str, name: str) -> Entry:
        """What a name stands for, and whose it is.

        Raises:
            PluginError: as :meth:`get`.
        """
        kind, names = kind_now(kind), self.names(kind)
        if name in names:
            return self._entries[kind, name]
        near = nearest(name, names)
        hint = f" (did you mean {near!r}?)" if near else ""
        failed = "".join(f"; skipped plugin {failure}" for failure in self.failures)
        raise PluginError(
            f"no {kind} is called {shown(name)}{hint}; "
            f"available: {', '.join(names) or 'none'}{failed}"
        )

    def names(self, kind: str) -> list[str]:
        """Names of one kind, sorted.

        Raises:
            PluginError: there is no such kind.
        """
        kind = kind_now(kind)
        if kind not in KINDS:
            raise PluginError(
                f"{kind!r} is no kind of plugin; kinds are {', '.join(KINDS)}"
            )
        return sorted(name for entry_kind, name in self._entries if entry_kind == kind)

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Entries of one kind or of all, sorted by kind and name."""
        order = {known: index for index, known in enumerate(KINDS)}
        kind = None if kind is None else kind_now(kind)
        chosen = [e for e in self._entries.values() if kind in (None, e.kind)]
        return sorted(chosen, key=lambda e: (order[e.kind], e.name))

    def describe(self) -> list[dict[str, str]]:
        """One row per entry for tables and JSON: all its fields but the value."""
        columns = ("kind", "name", "plugin", "distribution", "version")
        return [{c: getattr(e, c) for c in columns} for e in self.entries()]


def _entries(manager: pluggy.PluginManager, offer: Found) -> list[Entry]:
    """Register one plugin and ask it for everything it offers."""
    if manager.is_registered(offer.plugin):
        return []  # installed and asked for: one plugin all the same
    try:
        manager.register(offer.plugin, offer.name)
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginError(f"plugin {offer.name!r} is refused: {error}") from error
    offers = {
        caller.name: implementation.function
        for caller in manager.get_hookcallers(offer.plugin) or []
        for implementation in caller.get_hookimpls()
        if implementation.plugin is offer.plugin
    }
    _check_hooks(offer, set(offers))
    offered = [
        (kind, name, value)
        for kind, hook in _HOOKS
        if hook in offers
        for name, value in _ask(offer, kind, hook, offers[hook]).items()
    ]
    foreign = not _ours(offer.plugin)
    code = digest(offer.plugin) if foreign else ""  # with what its hooks imported
    return [
        Entry(
            kind=kind,
            name=name,
            value=value,
            plugin=offer.name,
            distribution=offer.distribution,
            version=offer.version,
            digest=code,
            foreign=foreign,
        )
        for kind, name, value in offered
    ]


def _check_hooks(offer: Found, hooks: set[str]) -> None:
    known = list(KINDS.values())
    for hook in sorted(hooks - {name for _, name in _HOOKS}):
        near = nearest(hook, known)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise PluginError(
            f"plugin {offer.name!r} implements the unknown hook {hook!r}{hint}; "
            f"hooks are {', '.join(known)}"
        )
    if not hooks:
        raise PluginError(
            f"plugin {offer.name!r} implements no hook; mark a function with "
            f"@hookimpl from plugins and call it one of {', '.join(known)}"
        )


def _ask(
    offer: Found, kind: str, hook: str, function: Callable[[], object]
) -> Mapping[str, Any]:
    """What one hook of a plugin offers, by name."""
    try:
        offered = function()
    except Exception as error:
        raise PluginError(
            f"plugin {offer.name!r} fails in its hook {hook!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(offered, Mapping):
        raise PluginError(
            f"hook {hook!r} of plugin {offer.name!r} returns "
            f"{type(offered).__name__}; return a dict from names to what it offers"
        )
    for name, value in offered.items():
        _check_offer(offer, kind, name, value)
    return offered


def _ours(plugin: object) -> bool:
    """Whether a plugin is part of this project; its name does not tell."""
    module = plugin if inspect.ismodule(plugin) else inspect.getmodule(type(plugin))
    file = Path(getattr(module, "__file__", None) or ".").resolve()
    root = Path(__file__).resolve().parents[1]
    return any(file.is_relative_to(root / name) for name in ("plugins", "experiments"))


def _check_offer(offer: Found, kind: str, name: object, value: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(
            f"plugin {offer.name!r} offers a {kind} called {name!r}; names are "
            "lower-case letters, digits, '_' and '-'"
        )
    right = isinstance(value, Mapping) if kind == "phase" else callable(value)
    if not right:
        expected = "a mapping" if kind == "phase" else "callable"
        raise PluginError(
            f"the {kind} {name!r} of plugin {offer.name!r} is "
            f"{type(value).__name__}, not {expected}; see plugins.hookspecs"
        )


def _raise_first(failures: Sequence[Failure]) -> None:
    if failures:
        failure = failures[0]
        raise PluginError(
            f"installed plugin {failure}. Repair or uninstall {failure.distribution}, "
            f"or skip it on request (--skip-plugin {failure.name})"
        )
