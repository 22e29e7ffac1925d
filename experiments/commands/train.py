"""``mtkd train`` and ``mtkd quickstart``."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from align.foreign.quote import say
from experiments.commands.output import lasting_output
from experiments.commands.parser import (
    CONFIG_OPTIONS,
    OVERRIDES,
    PLUGIN_OPTIONS,
    Command,
    config_of,
    count,
    option,
    tell_stopped,
)
from experiments.commands.tables import show_report

if TYPE_CHECKING:
    from experiments.run.context import RunContext
    from experiments.run.plan import RunPlan

RESUME_OPTIONS = (
    option(
        "--resume",
        choices=("auto", "never", "must"),
        default="auto",
        help="go on where the run stopped, if it did (auto); start only a new run "
        "(never); fail unless there is one to go on with (must)",
    ),
    option(
        "--trust-checkpoint",
        action="store_true",
        help="go on from phases or checkpoints that another account, another run or an "
        "earlier version wrote",
    ),
    option(
        "--changed-plugins",
        action="store_true",
        help="go on though the code of a plugin in use has changed since",
    ),
)


def train(options: Namespace) -> int:
    """Train as a config says and show what came of it."""
    from experiments.config.presets import load_registry
    from experiments.run.plan import plan_run
    from student.loop.launch import launched_rank

    if (options.check or options.dry_run) and launched_rank() != 0:
        return 0  # one process of a launcher looks, for all of them
    config = config_of(options)
    registry = load_registry(config)
    plan = plan_run(config, registry, options.resume)
    if options.pause_after is not None:
        plan = replace(plan, pause_after=options.pause_after)
    if options.check or options.dry_run:
        from experiments.commands.dry_run import look_before

        return look_before(plan, options.dry_run, options.changed_plugins)
    return _train(plan, options)


@lasting_output("the run")
def _train(plan: RunPlan, options: Namespace) -> int:
    from experiments.record.stop import RunStopped
    from experiments.run.driver import sum_up, train_arms
    from experiments.run.opening import open_run
    from experiments.run.plan import parted
    from student.loop.launch import launched_rank

    try:
        with parted(plan) as mine:
            if mine is None:
                return 0
            with open_run(
                mine,
                trust=options.trust_checkpoint,
                changed_plugins=options.changed_plugins,
            ) as run:
                undrawn = _drawn(run)
                sum_up(run, train_arms(run))
    except RunStopped as stopped:
        return tell_stopped(stopped)
    if launched_rank() == 0:
        _report_trained(plan.config.run_dir, undrawn)
        if getattr(options, "tiny", False):
            print(
                "these models know next to nothing: the numbers say that a run works, "
                "no more; those of `mtkd quickstart` mean something"
            )
    return 0


TRAIN = Command(
    name="train",
    action=train,
    what="train as a config says, then report",
    examples=(
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
        ("mtkd train my.yaml --dry-run", "see what would be learned, and from whom"),
    ),
    options=(
        *CONFIG_OPTIONS,
        *RESUME_OPTIONS,
        option(
            "--pause-after",
            type=count,
            metavar="STEPS",
            help="save and leave, with exit code 75, once the run's own phases have "
            "taken so many steps; the same command without it goes on",
        ),
        option(
            "--check",
            action="store_true",
            help="see that settings, plugins, texts and models are there and go "
            "together, say what would be trained, and load and train nothing",
        ),
        option(
            "--dry-run",
            action="store_true",
            help="what --check says, then load models and texts, show how each "
            "tokenizer reads them, what is learned and from whom, take the first step "
            "of each phase, and say time and memory; writes nothing",
        ),
    ),
)


def quickstart(options: Namespace) -> int:
    """Train from the embedded teachers."""
    config = "quickstart_tiny" if options.tiny else "quickstart"
    unasked = {"check": False, "dry_run": False, "pause_after": None}
    return train(Namespace(**vars(options), config=config, **unasked))


QUICKSTART = Command(
    name="quickstart",
    action=quickstart,
    what="build the embedded teachers if need be, train through all five phases and "
    "the baselines, and report",
    examples=(
        ("mtkd quickstart", "all of it, into runs/quickstart"),
        ("mtkd quickstart --tiny", "the same in a minute, to see that it works"),
        ("mtkd quickstart run.name=short train.steps=10", "shorter"),
        ("mtkd quickstart phases='[dual, routing]'", "two of the phases"),
    ),
    options=(
        OVERRIDES,
        option(
            "--tiny",
            action="store_true",
            help="models that know next to nothing and four steps a phase: the same "
            "report in a minute, whose numbers mean nothing",
        ),
        *RESUME_OPTIONS,
        *PLUGIN_OPTIONS,
    ),
)


def _drawn(run: RunContext) -> Exception | None:
    """Draw how teachers meet the student; gives what went wrong, for after training."""
    from experiments.report.alignment import draw_what_meets

    if run.engine.is_main:
        try:
            draw_what_meets(run)
        except Exception as error:  # raised again where it costs no training
            return error
    return None


def _report_trained(run_dir: Path, undrawn: Exception | None) -> None:
    """Write and show the report of a run that is trained, whatever becomes of it."""
    from experiments.record.failures import kept_errors
    from experiments.record.run_dir import read_run
    from experiments.report.page import write_report

    try:
        with kept_errors(run_dir):
            if undrawn is not None:
                raise undrawn
            write_report(read_run(run_dir))
    except Exception:
        say(
            f"{run_dir} is trained, but has no report; once this is put right, "
            f"`mtkd report {run_dir}` writes it:",
        )
        raise
    show_report(run_dir)
