"""The command ``mtkd``: which commands there are, and how each of them ends."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence

from align.errors import PROGRAM_ERROR, USER_ERROR
from experiments.commands.estimate import ESTIMATE, TEACHERS
from experiments.commands.evaluate import EVAL
from experiments.commands.look import CONFIG, DOCTOR, REPORT, STATUS, ZOO
from experiments.commands.make import MAKE
from experiments.commands.mistyped import Parser, unknown_words
from experiments.commands.models import ADAPT, MODELS
from experiments.commands.output import UNREAD, lead_nowhere
from experiments.commands.parser import examples_text
from experiments.commands.plugins import PLUGINS
from experiments.commands.publishing.card import CARD
from experiments.commands.publishing.pack import PACK
from experiments.commands.publishing.push import PUSH
from experiments.commands.recipes import RECIPES
from experiments.commands.store import EXTRACT, STORE
from experiments.commands.sweeping.sweep import SWEEP
from experiments.commands.train import QUICKSTART, TRAIN
from experiments.commands.viz import VIZ
from experiments.commands.writing.chat import CHAT
from experiments.commands.writing.generate import GENERATE
from experiments.commands.writing.link import LINK
from experiments.commands.writing.write import WRITE

COMMANDS = (
    QUICKSTART,
    TRAIN,
    SWEEP,
    RECIPES,
    ADAPT,
    MAKE,
    LINK,
    ESTIMATE,
    TEACHERS,
    EXTRACT,
    STORE,
    EVAL,
    GENERATE,
    CHAT,
    WRITE,
    STATUS,
    REPORT,
    CARD,
    PACK,
    PUSH,
    DOCTOR,
    VIZ,
    PLUGINS,
    ZOO,
    MODELS,
    CONFIG,
)
"""In the order of ``mtkd --help``."""

_NO_PLUGINS = "MTKD_NO_PLUGINS"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: words after ``mtkd``; None for the process's own.

    Returns:
        The exit code: 0, 1 for a mistake of ours, 2 for one the user can put right,
        3 where trials of a sweep failed, 75 for what was stopped as asked, 130 when
        interrupted, 141 where all that was asked for was output and its reader left.
    """
    _give_streams()
    parser = build_parser()
    options, rest = parser.parse_known_args(argv)
    if not hasattr(options, "action"):
        getattr(options, "show", parser).print_help()
        return 0
    if hasattr(options, "overrides"):
        overrides = [word for word in rest if _is_override(word)]
        options.overrides = [*options.overrides, *overrides]
        rest = [word for word in rest if not _is_override(word)]
    if rest:
        options.show.error(unknown_words(options.show, rest))
    return USER_ERROR if _nowhere() else _run(options)


@functools.cache
def build_parser() -> argparse.ArgumentParser:
    """The parser of every command, built once; parsing leaves it as it was."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show where an error comes from",
    )
    parser: argparse.ArgumentParser = Parser(
        prog="mtkd",
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train one small language model from several frozen teachers, "
        "through their keys and values.",
        epilog=examples_text(
            (
                ("mtkd doctor", "what this machine offers"),
                ("mtkd quickstart", "embedded teachers, all five phases, minutes"),
                ("mtkd recipes list", "configs for what people do, to start from"),
                ("mtkd train my.yaml train.steps=200", "your own models and texts"),
                ("mtkd COMMAND --help", "each command, by example"),
            )
        ),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands, common)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            installed = version("mtkd")
        except PackageNotFoundError:
            installed = "checkout"
        print(f"mtkd {installed}")
        parser.exit()


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def _run(options: argparse.Namespace) -> int:
    debug = getattr(options, "debug", False)
    before = os.environ.get(_NO_PLUGINS)
    if getattr(options, "no_plugins", False):
        os.environ[_NO_PLUGINS] = "1"  # processes that the command starts see it, too
    try:
        code = int(options.action(options) or 0)
        sys.stdout.flush()  # here, where a reader who left is no mistake
        return code
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        for stream in (sys.stdout, sys.stderr):
            lead_nowhere(stream)
        return UNREAD
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    except SystemExit as error:
        # no command of ours ends so: a code of 0 would say that all is done
        if debug:
            raise
        _tell(
            f"failed: a plugin or library ended the process (sys.exit({error.code!r})) "
            "before the work was done; --debug shows where"
        )
        return PROGRAM_ERROR
    except Exception as error:
        if debug:
            raise
        from align.errors import exit_code_of
        from experiments.record.failures import line_of

        _tell(line_of(error))
        return exit_code_of(error)
    finally:
        os.environ.pop(_NO_PLUGINS, None)
        if before is not None:
            os.environ[_NO_PLUGINS] = before


def _nowhere() -> bool:
    """Say so where the working directory was deleted: libraries end the process there,
    each in its own words, as they are imported."""
    try:
        os.getcwd()
    except FileNotFoundError:
        there = os.environ.get("PWD", "")
        _tell(
            f"error: the working directory {there} was deleted; change to one that is "
            "there, such as `cd ~`, and run the command again"
        )
        return True
    return False


def _tell(text: str) -> None:
    """Say why a command ends, to whoever still listens."""
    from align.foreign.quote import visible

    try:
        print(f"mtkd: {visible(text)}", file=sys.stderr, flush=True)
    except OSError:
        lead_nowhere(sys.stderr)


def _give_streams() -> None:
    """Stand in for what was closed before the command began (``2>&-``)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())
