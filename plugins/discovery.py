"""Find and import plugins: installed ones by entry point, others by name or path."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from align.bounds.regular_file import refuse_special
from align.errors import InputError
from align.support.digest import sha256_of
from plugins.entry import PROJECT
from plugins.errors import Failure, PluginError

ALLOW = "MTKD_PLUGINS"
"""Environment variable: comma-separated entry points or distributions that may
load; set but empty, none may. Unset, all may."""
NONE = "MTKD_NO_PLUGINS"
"""Environment variable: set to 1, no installed plugin loads, and the command none that
a config names."""


Say = Callable[[str], None]
"""Told what is about to run, a line at a time."""


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin that was imported."""

    plugin: object
    """The module or object that carries the hooks."""
    name: str
    """Entry-point name, module name or path."""
    distribution: str
    """The installed distribution it comes from, or ``-``."""
    version: str
    """That distribution's version, or ``-``."""


def installed(
    skip: Iterable[str], environ: Mapping[str, str] | None = None
) -> tuple[list[Found], list[Failure]]:
    """Import the installed plugins one by one.

    A plugin is code that runs with the user's rights as soon as it is imported;
    whoever does not trust what is installed lists what may load in ``MTKD_PLUGINS``.

    Args:
        skip: entry points or distributions left alone, not even imported; they
            need not be installed, so that one config serves several machines.
        environ: the environment; None: the process's own.

    Returns:
        What was imported, and what failed to be.

    Raises:
        PluginError: ``MTKD_PLUGINS`` names something not installed.
    """
    env = os.environ if environ is None else environ
    if none_wanted(env):
        return [], []
    points = sorted(entry_points(group=PROJECT), key=lambda point: point.name)
    allowed = _allowed(env)
    _check_known(allowed or (), points)
    refused = set(skip)
    offers, failures = [], []
    for point in points:
        name, version = _distribution(point)
        names = {point.name, name}
        if names & refused or (allowed is not None and not names & allowed):
            continue
        try:
            offers.append(Found(point.load(), point.name, name, version))
        except (Exception, SystemExit) as error:  # whatever a stranger's code does
            failures.append(Failure(point.name, name, version, _describe(error)))
    return offers, failures


def none_wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the environment says that no plugin loads."""
    env = os.environ if environ is None else environ
    return env.get(NONE, "") not in ("", "0")


def by_name(plugin: str, say: Say = lambda line: None) -> Found:
    """Import one plugin that the user asked for.

    Args:
        plugin: a module name, or a path ending in ``.py``.
        say: told the digest of a file before its code runs.

    Raises:
        PluginError: it cannot be imported; the message says why.
    """
    try:
        of_file = plugin.endswith(".py")
        module = _from_file(plugin, say) if of_file else _by_module(plugin)
    except PluginError:
        raise
    except InputError as error:
        raise PluginError(f"plugin {error}") from None
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"plugin {plugin!r} fails to import: {_describe(error)}; repair it, or "
            "leave it out of plugins"
        ) from error
    return Found(module, plugin, "-", "-")


def _by_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise  # it is there, but something it imports is not
        raise PluginError(
            f"plugin {name!r} is not importable from here; install it, put its folder "
            "on PYTHONPATH, or give the path of its .py file"
        ) from error


class _Source(SourceFileLoader):
    """Runs the file as it is read: compiled code beside it may be of other lines."""

    def path_stats(self, path: str) -> Any:
        """Nothing by which compiled code could be taken for this file's."""
        raise OSError(path)


def _from_file(path: str, say: Say) -> ModuleType:
    refuse_special(Path(path).expanduser())
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise PluginError(f"plugin file {str(file)!r} does not exist; give its path")
    # Named by its whole path, so that two files called router.py do not meet.
    name = "mtkd_plugin_" + "".join(c if c.isalnum() else "_" for c in str(file))
    if name in sys.modules:
        return sys.modules[name]
    say(f"plugin {file}: SHA-256 {sha256_of(file)}")
    loader = _Source(name, str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _allowed(env: Mapping[str, str]) -> set[str] | None:
    value = env.get(ALLOW)
    if value is None:
        return None
    return {part.strip() for part in value.split(",") if part.strip()}


def _check_known(names: Collection[str], points: list[EntryPoint]) -> None:
    if not names:
        return
    known = {name for point in points for name in (point.name, _distribution(point)[0])}
    for name in names:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise PluginError(
                f"{ALLOW} names the plugin {name!r}, which is not installed; "
                f"installed plugins and distributions: {listed}"
            )


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("-", "-")


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
