"""Code that a run or store brings along in its config runs only if its user says so.

A config that somebody passes is as much their program as the command is. The config
that lies in a run's or store's folder was written by whoever made the folder; a command
that opens the folder, or only looks at it, runs nothing of what that names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.foreign.quote import say
from align.support.digest import sha256_of
from experiments.config.parsing import ConfigError
from experiments.record.dates import DATE
from experiments.record.history import ATTEMPTS, IDENTITY, STATE
from experiments.record.lease import LEASE
from experiments.record.run_dir import METRICS, SUMMARY
from experiments.record.which_run import CONFIG
from teacher.store.manifest import PLAN

if TYPE_CHECKING:
    from experiments.config.tree import Config

_OF_RUNS = (IDENTITY, STATE, ATTEMPTS, LEASE, METRICS, SUMMARY)


def of_a_folder(config: Path) -> bool:
    """Whether a config is the one that a run or an extraction keeps in its folder."""
    folder = config.parent
    of_run = any((folder / name).exists() for name in (*_OF_RUNS, DATE))
    stores = any(folder.glob(f"*/{PLAN}")) or (folder / PLAN).exists()
    return config.name == CONFIG and (of_run or stores)


def check_named(config: Path, plugins: Iterable[str], named: Sequence[str]) -> None:
    """Refuse what a folder's config would run and the command line does not name.

    Args:
        config: the folder's.
        plugins: modules and files that it names.
        named: those that the command line names.

    Raises:
        ConfigError: names the file, its digest, and the words that allow it.
    """
    known = {_place(name) for name in named}
    for plugin in plugins:
        if _place(plugin) not in known:
            raise ConfigError(
                f"{config} names the plugin {described(plugin)}: code that lies there "
                "for whoever made the folder, and is not run for that; read it, then "
                f"allow it by --plugin {plugin}, or do without by --no-plugins"
            )


def check_trusted(
    config: Path,
    settings: Config,
    typed: Sequence[str] = (),
    *,
    allows: str = "",
) -> None:
    """Refuse to run code of models because a folder's config says so.

    Args:
        config: the folder's.
        settings: what it says.
        typed: settings that the command line gives.
        allows: how a command that takes no settings is told, of a teacher ``{name}``.

    Raises:
        ConfigError: names the model, and what allows it.
    """
    places: dict[str, Any] = {f"teachers.{n}": e for n, e in settings.teachers.items()}
    for place, entry in {**places, "student": settings.student}.items():
        setting = f"{place}.trust_remote_code"
        if entry.trust_remote_code and f"{setting}=true" not in typed:
            way = (
                allows.format(name=place.removeprefix("teachers."))
                or "a copy of this config that is yours to `mtkd train` or `mtkd "
                f"extract`, or {setting}=true where a command takes settings"
            )
            raise ConfigError(
                f"{config} says {setting}: code that comes with {entry.model} is not "
                f"run for what lies in a folder; read it, then give {way}"
            )


def tell_left_out(plugins: Iterable[str]) -> None:
    """Say which plugins of a config are not loaded, as was asked."""
    for plugin in plugins:
        say(f"left out: plugin {plugin}, which the config names (--no-plugins)")


def described(plugin: str) -> str:
    """A plugin with the SHA-256 of its file, as ``sha256sum`` gives it."""
    file = Path(plugin).expanduser()
    if not plugin.endswith(".py"):
        return f"{plugin!r} (a module)"
    digest = f"SHA-256 {sha256_of(file)}" if file.is_file() else "no such file"
    return f"{plugin!r} ({digest})"


def _place(plugin: str) -> str:
    """The same for one file, however its path is written."""
    file = Path(plugin).expanduser()
    return str(file.resolve()) if plugin.endswith(".py") else plugin
