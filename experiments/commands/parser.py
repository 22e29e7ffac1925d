"""Parts that the parsers of all commands are made of."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

OVERRIDES = "KEY=VALUE changes any setting; `mtkd config show` lists them all."
"""Help of the words after a config."""


class Maker:
    """Adds commands that know how to run and how to show themselves."""

    def __init__(
        self,
        commands: argparse._SubParsersAction[argparse.ArgumentParser],
        common: argparse.ArgumentParser,
    ) -> None:
        """Hold where commands go and the options that all share."""
        self._commands, self._common = commands, common

    def add(
        self, name: str, command: str, what: str, *examples: tuple[str, str]
    ) -> argparse.ArgumentParser:
        """Add a command run by ``module:function`` of this package."""
        parser = self._parser(name, what, examples)
        parser.set_defaults(command=command, show=parser)
        return parser

    def group(self, name: str, what: str, *examples: tuple[str, str]) -> Maker:
        """Add a command with commands of its own."""
        parser = self._parser(name, what, examples)
        parser.set_defaults(show=parser)
        inner = parser.add_subparsers(title="commands", metavar="COMMAND")
        return Maker(inner, self._common)

    def _parser(
        self, name: str, what: str, examples: Sequence[tuple[str, str]]
    ) -> argparse.ArgumentParser:
        return self._commands.add_parser(
            name,
            help=what,
            description=what[0].upper() + what[1:] + ".",
            parents=[self._common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=examples_text(*examples),
        )


def count(text: str) -> int:
    """Read a number of things, at least one.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no such number; give 1 or more")
    return int(text)


def config_options(parser: argparse.ArgumentParser) -> None:
    """Let a command take a config, overrides and plugins."""
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help="a YAML file or the name of a packaged config",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)
    plugin_options(parser)


def plugin_options(parser: argparse.ArgumentParser) -> None:
    """Let a command take plugins, or leave them out."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="also load this module or .py file; may be repeated",
    )
    parser.add_argument(
        "--skip-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="do not load this installed plugin; may be repeated",
    )
    parser.add_argument(
        "--no-plugins", action="store_true", help="load no installed plugin"
    )


def examples_text(*examples: tuple[str, str]) -> str:
    """Lay out (command line, why) pairs for the end of a help text."""
    lines = ["examples:"]
    for command, why in examples:
        lines.append(f"  {command}")
        if why:
            lines.append(f"      {why}")
    return "\n".join(lines)
