"""The command ``mtkd``.

This file only reads the command line; everything that needs PyTorch is imported by
the command that needs it, so that ``mtkd --help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from experiments.commands.cli_store import add_store_commands
from experiments.commands.parser import (
    OVERRIDES,
    Maker,
    config_options,
    count,
    examples_text,
    plugin_options,
)

SCALES = "tiny, default or strong"
KINDS = (
    "aligner, layer_map, adapter, rope_scaler, router, temperature, space, objective "
    "or phase"
)
ALIGNERS = "char_iou, causal_char_iou, last_token, chunk_end"
LAYER_MAPS = "ratio, uniform, skip"
"""What can be chosen, in words: a help text does not load what knows it."""

_NO_PLUGINS = "MTKD_NO_PLUGINS"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: words after ``mtkd``; None for the process's own.

    Returns:
        The exit code: 0, 1 for a mistake of ours, 2 for one the user can put right,
        130 when interrupted.
    """
    parser = build_parser()
    options, rest = parser.parse_known_args(argv)
    if not hasattr(options, "command"):
        getattr(options, "show", parser).print_help()
        return 0
    if hasattr(options, "overrides"):
        options.overrides += [word for word in rest if _is_override(word)]
        rest = [word for word in rest if not _is_override(word)]
    if rest:
        options.show.error(f"unrecognized arguments: {' '.join(rest)}")
    return _run(options)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of every command."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show where an error comes from",
    )
    parser = argparse.ArgumentParser(
        prog="mtkd",
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train one small language model from several frozen teachers, "
        "through their keys and values.",
        epilog=examples_text(
            ("mtkd doctor", "what this machine offers"),
            ("mtkd quickstart", "embedded teachers, all five phases, minutes"),
            ("mtkd train my.yaml train.steps=200", "your own models and texts"),
            ("mtkd COMMAND --help", "each command, by example"),
        ),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    maker = Maker(commands, common)
    _training(maker)
    add_store_commands(maker)
    _looking(maker)
    _groups(maker)
    return parser


def _training(maker: Maker) -> None:
    add = maker.add(
        "quickstart",
        "train:quickstart",
        "build the embedded teachers if need be, train through all five phases and "
        "the baselines, and report",
        ("mtkd quickstart", "all of it, into runs/quickstart"),
        ("mtkd quickstart run.name=short train.steps=10", "shorter"),
        ("mtkd quickstart phases='[dual, routing]'", "two of the phases"),
    )
    add.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)
    _resume_options(add)
    plugin_options(add)
    add = maker.add(
        "train",
        "train:train",
        "train as a config says, then report",
        ("mtkd train my.yaml", "a config of your own"),
        ("mtkd train quickstart fuse.temperature=0.5", "a packaged one, changed"),
        (
            "mtkd train teachers='[gpt2, ./opt]' student.model=./s "
            "data.train='[a.txt]'",
            "no file at all",
        ),
        ("mtkd train my.yaml --resume must", "go on, or fail if there is nothing"),
        ("mtkd train my.yaml --plugin my_router.py", "with a plugin not installed"),
        ("mtkd train my.yaml --check", "before a queue: see that it can begin"),
    )
    config_options(add)
    _resume_options(add)
    add.add_argument(
        "--check",
        action="store_true",
        help="see that settings, plugins, texts and models are there and go together, "
        "say what would be trained, and train nothing",
    )


def _looking(maker: Maker) -> None:
    add = maker.add(
        "eval",
        "train:evaluate",
        "measure a run's students, or any causal model, on held-out text, in bits per "
        "character",
        ("mtkd eval runs/quickstart", "every phase, on the run's own held-out text"),
        ("mtkd eval runs/quickstart --data news=news.txt", "on other text"),
        ("mtkd eval ./their-model --data news=news.txt", "a student of another tool"),
        (
            "mtkd eval gpt2 --like runs/quickstart",
            "a model of the hub, on the pieces that the run's students read",
        ),
        ("mtkd eval runs/quickstart --json", "for other programs"),
    )
    add.add_argument(
        "run",
        metavar="RUN",
        help="a run's folder; or a model: its folder, hub name or zoo:NAME",
    )
    add.add_argument(
        "--data",
        nargs="+",
        metavar="TEXT",
        help="held-out texts, DOMAIN=PATH to name domains (the run's own); a model "
        "needs some",
    )
    add.add_argument(
        "--like",
        metavar="RUN",
        help="measure a model on the pieces of text, as long and as many, on which "
        "this run's students are measured",
    )
    add.add_argument("--json", action="store_true", help="print JSON")
    add = maker.add(
        "status",
        "train:status",
        "say where a run is, how each of its launches ended, and what comes next",
        ("mtkd status runs/mtkd-4711", "also while it runs"),
        ("mtkd status runs/mtkd-4711 --json", "for other programs"),
    )
    add.add_argument("run", help="the run's folder")
    add.add_argument("--json", action="store_true", help="print JSON")
    add = maker.add(
        "report",
        "train:report",
        "draw a run's pictures, write its report.md and print the table",
        ("mtkd report runs/quickstart", "also while the run still goes on"),
        ("mtkd report runs/quickstart --no-figures", "the page alone"),
    )
    add.add_argument("run", help="the run's folder")
    add.add_argument("--no-figures", action="store_true", help="keep the pictures")
    maker.add(
        "doctor",
        "train:doctor",
        "say what is installed, what this machine offers, and what to do",
        ("mtkd doctor", "exits with 2 where something must be repaired"),
    )


def _groups(maker: Maker) -> None:
    _viz(
        maker.group(
            "viz",
            "draw an alignment, layer maps, or a run's routing",
            ("mtkd viz alignment --student gpt2 --teacher ./bert --text 'Hi'", ""),
            ("mtkd viz layers --teacher-layers 24,32 --student-layers 12", ""),
            ("mtkd viz routing runs/quickstart", ""),
        )
    )
    _plugins(
        maker.group(
            "plugins",
            "list, check or start plugins",
            ("mtkd plugins list", "everything that a config can name"),
            ("mtkd plugins check dirichlet", "does it keep its kind's contract?"),
            ("mtkd plugins new my-router --kind router", "a package to start from"),
        )
    )
    zoo = maker.group(
        "zoo",
        "the embedded teachers",
        ("mtkd zoo build", "train what is missing, minutes"),
        ("mtkd zoo list", "what there is and how good it is"),
    )
    add = zoo.add(
        "build",
        "train:zoo_build",
        "train the embedded models that are not cached",
        ("mtkd zoo build", "all"),
        ("mtkd zoo build gpt2-prose student", "two of them"),
    )
    add.add_argument("names", nargs="*", metavar="NAME", help="models; all if none")
    _zoo_scale(add)
    add = zoo.add(
        "list",
        "train:zoo_list",
        "list the embedded models with bits per character by domain",
        ("mtkd zoo list", ""),
    )
    _zoo_scale(add)
    config = maker.group(
        "config",
        "look at settings",
        ("mtkd config show", "every setting with its default"),
    )
    add = config.add(
        "show",
        "train:config_show",
        "print a config as it resolves, ready to be saved and edited",
        ("mtkd config show > my.yaml", "every setting with its default"),
        ("mtkd config show quickstart train.steps=10", "with a change"),
        ("mtkd config show quickstart --phase routing", "what one phase will use"),
    )
    add.add_argument("config", nargs="?", metavar="CONFIG", help="file or packaged")
    add.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)
    add.add_argument("--phase", help="show one phase's resolved sections")
    plugin_options(add)


def _viz(viz: Maker) -> None:
    add = viz.add(
        "alignment",
        "viz:alignment_command",
        "draw how one text's tokens meet between two tokenizers",
        (
            "mtkd viz alignment --student gpt2 --teacher ./bert --text 'Unlike!'",
            "",
        ),
        (
            "mtkd viz alignment --student zoo:student --teacher zoo:t5-mixed "
            "--text 'a = b' --aligner char_iou --out a.png",
            "",
        ),
    )
    add.add_argument("--student", required=True, help="model or tokenizer folder")
    add.add_argument("--teacher", required=True, help="model or tokenizer folder")
    add.add_argument("--text", required=True, help="one sentence")
    add.add_argument(
        "--aligner",
        default="causal_char_iou",
        help=f"{ALIGNERS} or a plugin's (causal_char_iou)",
    )
    add.add_argument(
        "--out", default="alignment.png", help="PNG to write (alignment.png)"
    )
    plugin_options(add)
    add = viz.add(
        "layers",
        "viz:layers_command",
        "draw which teacher layers feed which student layer",
        ("mtkd viz layers --teacher-layers 24,32 --student-layers 12", "numbers"),
        ("mtkd viz layers quickstart", "the models of a config"),
    )
    add.add_argument("config", nargs="?", metavar="CONFIG", help="file or packaged")
    add.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)
    add.add_argument("--teacher-layers", help="such as 24,32")
    add.add_argument("--student-layers", type=count, help="such as 12")
    add.add_argument(
        "--strategy",
        help=f"{LAYER_MAPS} or a plugin's (the config's, else ratio)",
    )
    add.add_argument("--out", default="layers.png", help="PNG to write (layers.png)")
    plugin_options(add)
    add = viz.add(
        "routing",
        "viz:routing_command",
        "draw a run's routing weights over time, per domain and per layer",
        ("mtkd viz routing runs/quickstart", "into the run's figures"),
        ("mtkd viz routing runs/quickstart --out pictures", "elsewhere"),
    )
    add.add_argument("run", help="the run's folder")
    add.add_argument("--out", help="folder to write (the run's figures)")


def _plugins(plugins: Maker) -> None:
    add = plugins.add(
        "list",
        "plugins:list_plugins",
        "list everything that a config can name, and what failed to load",
        ("mtkd plugins list", ""),
        ("mtkd plugins list --kind router --json", "for other programs"),
    )
    add.add_argument("--kind", help=f"one kind only: {KINDS} (all)")
    add.add_argument("--json", action="store_true", help="print JSON")
    plugin_options(add)
    add = plugins.add(
        "check",
        "plugins:check_plugin",
        "test one plugin against the contract of its kind",
        ("mtkd plugins check dirichlet", "an installed one, by name"),
        ("mtkd plugins check mine --plugin ./mine.py", "one in a file"),
        ("mtkd plugins check mean --kind router", "where several kinds share a name"),
    )
    add.add_argument("name", help="the name a config would use")
    add.add_argument(
        "--kind", help=f"its kind, where several share the name: {KINDS} (any)"
    )
    plugin_options(add)
    add = plugins.add(
        "new",
        "plugins:new_plugin",
        "write a small package with one plugin, its test and its pyproject.toml",
        ("mtkd plugins new my-router", "a router, in ./mtkd-my-router"),
        (
            "mtkd plugins new my-loss --kind objective --dir ~/src",
            "in ~/src/mtkd-my-loss",
        ),
    )
    add.add_argument("name", help="the name a config will use")
    add.add_argument("--kind", default="router", help=f"{KINDS} (router)")
    add.add_argument("--dir", default=".", help="folder in which mtkd-NAME is made (.)")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("mtkd")
        except PackageNotFoundError:
            found = "checkout"
        print(f"mtkd {found}")
        parser.exit()


def _resume_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        choices=("auto", "never", "must"),
        default="auto",
        help="go on where the run stopped, if it did (auto); start only a new run "
        "(never); fail unless there is one to go on with (must)",
    )
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="go on from a checkpoint that another run wrote and somebody put here",
    )
    parser.add_argument(
        "--changed-plugins",
        action="store_true",
        help="go on though the code of a plugin in use has changed since",
    )


def _zoo_scale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scale",
        default="default",
        help=f"{SCALES}: tiny builds in seconds and knows next to nothing, strong "
        "takes about twice as long; in a config zoo:tiny/NAME (default)",
    )


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def _run(options: argparse.Namespace) -> int:
    debug = getattr(options, "debug", False)
    before = os.environ.get(_NO_PLUGINS)
    if getattr(options, "no_plugins", False):
        os.environ[_NO_PLUGINS] = "1"  # processes that the command starts see it, too
    try:
        module, _, function = options.command.partition(":")
        commands = importlib.import_module(f"experiments.commands.{module}")
        command = getattr(commands, function)
        return int(command(options) or 0)
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("mtkd: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        from align.errors import exit_code_of
        from experiments.record.failures import line_of

        print(f"mtkd: {line_of(error)}", file=sys.stderr)
        return exit_code_of(error)
    finally:
        os.environ.pop(_NO_PLUGINS, None)
        if before is not None:
            os.environ[_NO_PLUGINS] = before


if __name__ == "__main__":
    sys.exit(main())
