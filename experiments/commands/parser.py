"""What the commands of ``mtkd`` are made of: rows of options, and what many share.

Help has to come at once, so whatever needs PyTorch is imported by the action that needs
it; that includes every module of ``align``.
"""

from __future__ import annotations

import argparse
import re
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.config.tree import Config
    from plugins.registry import Registry

    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]

STOPPED = 75
"""Exit code of what was asked to stop and can go on (EX_TEMPFAIL)."""

Examples = Sequence[tuple[str, str]]
"""Command lines, each with what it is for."""


@dataclass(frozen=True, slots=True)
class Option:
    """One word of a command line."""

    names: tuple[str, ...]
    settings: Mapping[str, Any]
    """Of :meth:`argparse.ArgumentParser.add_argument`."""


def option(*names: str, **settings: Any) -> Option:
    """A row of a command's options, as ``add_argument`` takes it."""
    return Option(names, settings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command: how it is called and what it does."""

    name: str
    action: Callable[[Namespace], int]
    """Gives the exit code."""
    what: str
    """One sentence, without capital and full stop."""
    examples: Examples
    options: Sequence[Option] = ()

    def add_to(self, commands: SubParsers, common: argparse.ArgumentParser) -> None:
        """Add this command's parser beside those of others.

        Args:
            commands: where it goes.
            common: holds the options that all commands take.
        """
        parser = _parser(self, commands, common)
        for row in self.options:
            parser.add_argument(*row.names, **row.settings)
        parser.set_defaults(action=self.action, show=parser)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A command with commands of its own."""

    name: str
    what: str
    examples: Examples
    commands: Sequence[Command]

    def add_to(self, commands: SubParsers, common: argparse.ArgumentParser) -> None:
        """Add the parsers of all its commands; see :meth:`Command.add_to`."""
        parser = _parser(self, commands, common)
        parser.set_defaults(show=parser)
        inner = parser.add_subparsers(title="commands", metavar="COMMAND")
        for command in self.commands:
            command.add_to(inner, common)


def _parser(
    entry: Command | Group, commands: SubParsers, common: argparse.ArgumentParser
) -> argparse.ArgumentParser:
    return commands.add_parser(
        entry.name,
        help=entry.what,
        description=entry.what[0].upper() + entry.what[1:] + ".",
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=examples_text(entry.examples),
    )


def examples_text(examples: Examples) -> str:
    """Lay out examples for the end of a help text."""
    lines = ["examples:"]
    for command, why in examples:
        lines.append(f"  {command}")
        if why:
            lines.append(f"      {why}")
    return "\n".join(lines)


def count(text: str) -> int:
    """Read a number of things, at least one.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no such number; give 1 or more")
    return int(text)


def refuse_given(options: argparse.Namespace, why: str, **unread: Any) -> None:
    """Refuse options that the others leave without effect.

    Args:
        options: of the command line.
        why: what makes them so.
        unread: the default of each, by its name in ``options``.

    Raises:
        InputError: one is not at its default.
    """
    from align.errors import InputError

    for name, default in unread.items():
        if getattr(options, name) != default:
            word = f"--{name.replace('_', '-')}"
            raise InputError(f"{word} changes nothing: {why}; leave one of both out")


OVERRIDES = option(
    "overrides",
    nargs="*",
    metavar="KEY=VALUE",
    help="KEY=VALUE changes any setting; `mtkd config show` lists them all.",
)
"""The words after a config."""


def tell_stopped(stopped: Exception) -> int:
    """Say that a command ends as it was asked to; gives its exit code."""
    from align.foreign.quote import say

    say(f"mtkd: stopped as asked ({stopped}); the same command goes on from there")
    return STOPPED


PLUGIN_OPTIONS = (
    option(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="also load this module or .py file; may be repeated",
    ),
    option(
        "--skip-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="do not load this installed plugin; may be repeated",
    ),
    option(
        "--no-plugins",
        action="store_true",
        help="load no plugin, neither installed nor named by the config",
    ),
)
"""Of a command that takes plugins, or leaves them out; see :func:`with_plugins`."""

ANY_CONFIG = (
    option("config", nargs="?", metavar="CONFIG", help="file or packaged"),
    OVERRIDES,
)
"""Of a command that takes a config if it is given one."""

CONFIG_OPTIONS = (
    option(
        "config",
        nargs="?",
        metavar="CONFIG",
        help="a YAML file or the name of a packaged config",
    ),
    OVERRIDES,
    *PLUGIN_OPTIONS,
)
"""Of a command that takes a config, overrides and plugins; see :func:`config_of`."""

SHARE = option(
    "--shard",
    default="1/1",
    metavar="I/N",
    help="make only this task's part, I from 1 to N; tasks may run in any order, at "
    "once, and again (1/1, all)",
)
"""Of a command whose work an array of tasks shares; see :func:`share_in`."""

JSON = option("--json", action="store_true", help="print JSON")
RUN = option("run", help="the run's folder")


def share_in(text: str) -> tuple[int, int]:
    """The number of a task, from 1, and how many there are, of ``--shard``.

    Raises:
        InputError: it is not I/N with 1 <= I <= N.
    """
    from align.errors import InputError

    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(
            f"--shard is {text!r}; give I/N with 1 <= I <= N, such as 1/8 to 8/8"
        )
    return int(match[1]), int(match[2])


def config_of(options: Namespace, looks: bool = False) -> Config:
    """Load the config that a command line asks for, plugin options included.

    Args:
        options: with ``config``, ``overrides`` and ``PLUGIN_OPTIONS``.
        looks: the command shows something of the config and does nothing for it, so
            that it runs no code that the config of a run's or store's folder names.

    Raises:
        ConfigError: anything in it that cannot be used.
    """
    from experiments.config.packaged import config_path
    from experiments.config.tree import load_config
    from experiments.record.folder_code import check_trusted, of_a_folder

    source, overrides = options.config, list(options.overrides)
    if source is not None and "=" in source and not Path(source).exists():
        source, overrides = None, [source, *overrides]
    config = load_config(source, overrides)
    file = None if source is None else config_path(source)
    typed = any(override.startswith("plugins=") for override in overrides)
    foreign = looks and not typed and file is not None and of_a_folder(file)
    if looks and file is not None and of_a_folder(file):
        check_trusted(file, config, overrides)
    return with_plugins(config, options, folder_config=file if foreign else None)


def with_plugins(
    config: Config, options: Namespace, folder_config: Path | None = None
) -> Config:
    """Add what ``--plugin`` and ``--skip-plugin`` name, or leave out what is named.

    Args:
        config: to change.
        options: with ``PLUGIN_OPTIONS``.
        folder_config: the file it is from, where that lies in a run's or store's folder
            and was not given as a config; its plugins must be named by ``--plugin``.

    Raises:
        ConfigError: a plugin of such a config is not named, or the options contradict.
    """
    from dataclasses import replace

    from experiments.config.parsing import ConfigError
    from experiments.record.folder_code import check_named, tell_left_out
    from plugins.discovery import none_wanted
    from student.loop.launch import launched_rank

    if options.no_plugins and options.plugin:
        raise ConfigError("--plugin and --no-plugins contradict; give one of them")
    of_config = list(config.plugins)
    if none_wanted():
        if launched_rank() == 0:
            tell_left_out(_new(of_config, options.plugin))
        of_config = []
    elif folder_config is not None:
        check_named(folder_config, of_config, options.plugin)
    return replace(
        config,
        plugins=[*of_config, *_new(options.plugin, of_config)],
        skip_plugins=[
            *config.skip_plugins,
            *_new(options.skip_plugin, config.skip_plugins),
        ],
    )


def registry_of(options: Namespace, strict: bool) -> Registry:
    """Load the plugins that a command line asks for.

    Args:
        options: with ``PLUGIN_OPTIONS``.
        strict: whether an installed plugin that fails is an error.
    """
    from experiments.config.presets import load_registry
    from experiments.config.tree import Config

    return load_registry(with_plugins(Config(), options), strict)


def _new(names: Sequence[str], known: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name not in known]
