"""Look at runs, settings and the machine: status, report, doctor, zoo and config."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from experiments.commands.output import lasting_output
from experiments.commands.parser import (
    ANY_CONFIG,
    JSON,
    PLUGIN_OPTIONS,
    RUN,
    Command,
    Group,
    config_of,
    option,
)
from experiments.commands.tables import console, open_page, print_table, show_report

SCALES = "tiny, default, strong or real"
"""What can be chosen, in words: a help text does not load what knows it."""


def status(options: Namespace) -> int:
    """Say where a run is and what it would do next."""
    from experiments.record.seals import warn_unsealed
    from experiments.report.status import describe, lines

    description = describe(Path(options.run))
    warn_unsealed(Path(options.run))
    if options.json:
        print(json.dumps(description, indent=1))
        return 0
    from align.foreign.quote import visible

    print("\n".join(map(visible, lines(description))))
    return 0


STATUS = Command(
    name="status",
    action=status,
    what="say where a run is, how each of its launches ended, and what comes next",
    examples=(
        ("mtkd status runs/mtkd-4711", "also while it runs"),
        ("mtkd status runs/mtkd-4711 --json", "for other programs"),
    ),
    options=(RUN, JSON),
)


def report(options: Namespace) -> int:
    """Write a run's report and show its table."""
    from experiments.assemble.text_sources import tell
    from experiments.record.run_dir import read_run
    from experiments.record.seals import warn_unsealed
    from experiments.report.page import write_report

    run = read_run(Path(options.run))
    tell(run.faults)
    warn_unsealed(run.path)
    write_report(run, draw=not options.no_figures)
    show_report(run.path)
    if options.open:
        open_page(run.path / "report.html")
    return 0


REPORT = Command(
    name="report",
    action=report,
    what="draw a run's pictures, write its report.html and report.md and print the "
    "table",
    examples=(
        ("mtkd report runs/quickstart", "also while the run still goes on"),
        ("mtkd report runs/quickstart --open", "and look at it"),
        ("mtkd report runs/quickstart --no-figures", "the page alone"),
    ),
    options=(
        RUN,
        option("--no-figures", action="store_true", help="keep the pictures"),
        option(
            "--open",
            action="store_true",
            help="show report.html in a browser; without a display, say where it is",
        ),
    ),
)


def doctor(options: Namespace) -> int:
    """Show what this machine offers."""
    from rich.text import Text

    from experiments.doctor import examine

    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    findings = list(examine())
    rows = [
        [Text(f.state, styles[f.state]), f.topic, f.found, f.advice] for f in findings
    ]
    print_table("mtkd doctor", ["", "what", "found", "what to do"], rows)
    failed = [finding.topic for finding in findings if finding.state == "fail"]
    if failed:
        print(f"to repair before a run: {', '.join(failed)}")
    return 2 if failed else 0


DOCTOR = Command(
    name="doctor",
    action=doctor,
    what="say what is installed, what this machine offers, and what to do",
    examples=(("mtkd doctor", "exits with 2 where something must be repaired"),),
)

SCALE = option(
    "--scale",
    default="default",
    help=f"{SCALES}: tiny builds in seconds and knows next to nothing, strong "
    "takes about twice as long, real is one untrained student for pretrained "
    "teachers; in a config zoo:tiny/NAME (default)",
)


@lasting_output("the building")
def zoo_build(options: Namespace) -> int:
    """Make the embedded models that are not cached."""
    from teacher.zoo import build_zoo, zoo_table

    build_zoo(options.names or None, scale=options.scale, fresh=options.fresh)
    console().print(zoo_table(scale=options.scale))
    return 0


def zoo_list(options: Namespace) -> int:
    """List the embedded models."""
    from teacher.zoo import zoo_table

    console().print(zoo_table(scale=options.scale))
    return 0


ZOO = Group(
    name="zoo",
    what="the embedded teachers",
    examples=(
        ("mtkd zoo build", "make what is missing"),
        ("mtkd zoo list", "what there is and how good it is"),
    ),
    commands=(
        Command(
            name="build",
            action=zoo_build,
            what="make the embedded models that are not cached: unpack teachers that "
            "come trained with mtkd, train the others",
            examples=(
                ("mtkd zoo build", "all"),
                ("mtkd zoo build gpt2-prose student", "two of them"),
                ("mtkd zoo build --fresh", "train all of them here, minutes"),
            ),
            options=(
                option("names", nargs="*", metavar="NAME", help="models; all if none"),
                SCALE,
                option(
                    "--fresh",
                    action="store_true",
                    help="use no weights that come with mtkd: train what was not "
                    "trained on this machine",
                ),
            ),
        ),
        Command(
            name="list",
            action=zoo_list,
            what="list the embedded models with bits per character by domain",
            examples=(("mtkd zoo list", ""),),
            options=(SCALE,),
        ),
    ),
)


def config_show(options: Namespace) -> int:
    """Print a config as it resolves."""
    from experiments.config.tree import config_text, resolve_phase

    config = config_of(options, looks=options.phase is not None)
    if options.phase is None:
        print(config_text(config), end="")
        return 0
    from experiments.config.presets import load_registry, presets_of

    presets = presets_of(load_registry(config))
    print(config_text(resolve_phase(config, options.phase, presets)), end="")
    return 0


CONFIG = Group(
    name="config",
    what="look at settings",
    examples=(("mtkd config show", "every setting with its default"),),
    commands=(
        Command(
            name="show",
            action=config_show,
            what="print a config as it resolves, ready to be saved and edited",
            examples=(
                ("mtkd config show > my.yaml", "every setting with its default"),
                ("mtkd config show quickstart train.steps=10", "with a change"),
                (
                    "mtkd config show quickstart --phase routing",
                    "what one phase will use",
                ),
            ),
            options=(
                *ANY_CONFIG,
                option("--phase", help="show one phase's resolved sections"),
                *PLUGIN_OPTIONS,
            ),
        ),
    ),
)
