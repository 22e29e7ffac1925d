"""What the commands of ``mtkd`` do, once the command line is read."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.config.tree import Config
    from experiments.run.context import RunContext

STOPPED = 75
"""Exit code of a run that was asked to stop and can go on (EX_TEMPFAIL)."""


def quickstart(options: Namespace) -> int:
    """Train from the embedded teachers."""
    options.config = "quickstart"
    return train(options)


def train(options: Namespace) -> int:
    """Train as a config says and show what came of it."""
    from experiments.config.presets import load_registry
    from experiments.record.stop import RunStopped
    from experiments.run.driver import sum_up, train_arms
    from experiments.run.opening import open_run
    from experiments.run.plan import plan_run

    config = config_of(options)
    registry = load_registry(config)
    if getattr(options, "check", False):
        from experiments.run.preflight import preflight

        print("\n".join(preflight(config, registry, options.resume)))
        return 0
    plan = plan_run(config, registry, options.resume)
    try:
        with open_run(
            plan,
            trust=options.trust_checkpoint,
            changed_plugins=options.changed_plugins,
        ) as run:
            undrawn = _drawn(run)
            sum_up(run, train_arms(run))
    except RunStopped as stopped:
        _say(f"stopped as asked ({stopped}); the same command goes on from there")
        return STOPPED
    if os.environ.get("RANK", "0") == "0":
        _report_trained(config.run_dir, undrawn)
    return 0


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
        print(
            f"{run_dir} is trained, but has no report; once this is put right, "
            f"`mtkd report {run_dir}` writes it:",
            file=sys.stderr,
        )
        raise
    _show(run_dir)


def evaluate(options: Namespace) -> int:
    """Measure a run's students, or a model."""
    from experiments.report.measure import measure

    like = None if options.like is None else Path(options.like)
    results = measure(options.run, options.data, like=like)
    if options.json:
        print(json.dumps(results, indent=1))
        return 0
    domains = list(dict.fromkeys(d for bpc in results.values() for d in bpc))
    rows = [
        [name, *(f"{bpc[domain]:.3f}" for domain in domains)]
        for name, bpc in results.items()
    ]
    title = f"{options.run}: held-out bits per character, lower is better"
    print_table(title, ["student", *domains], rows, numbers_from=1)
    return 0


def status(options: Namespace) -> int:
    """Say where a run is and what it would do next."""
    from experiments.report.status import describe, lines

    found = describe(Path(options.run))
    print(json.dumps(found, indent=1) if options.json else "\n".join(lines(found)))
    return 0


def report(options: Namespace) -> int:
    """Write a run's report and show its table."""
    from experiments.record.run_dir import read_run
    from experiments.report.page import write_report

    run = read_run(Path(options.run))
    write_report(run, draw=not options.no_figures)
    _show(run.path)
    return 0


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


def zoo_build(options: Namespace) -> int:
    """Train the embedded models that are not cached."""
    from teacher.zoo import build_zoo, zoo_table

    build_zoo(options.names or None, scale=options.scale)
    console().print(zoo_table(scale=options.scale))
    return 0


def zoo_list(options: Namespace) -> int:
    """List the embedded models."""
    from teacher.zoo import zoo_table

    console().print(zoo_table(scale=options.scale))
    return 0


def config_show(options: Namespace) -> int:
    """Print a config as it resolves."""
    from experiments.config.presets import load_registry, presets_of
    from experiments.config.tree import config_text, resolve_phase

    config = config_of(options)
    if options.phase is None:
        print(config_text(config), end="")
        return 0
    presets = presets_of(load_registry(config))
    print(config_text(resolve_phase(config, options.phase, presets)), end="")
    return 0


def config_of(options: Namespace) -> Config:
    """Load the config that a command line asks for, plugin options included.

    Raises:
        ConfigError: anything in it that cannot be used.
    """
    from experiments.config.tree import load_config

    source, overrides = options.config, list(options.overrides)
    if source is not None and "=" in source and not Path(source).exists():
        source, overrides = None, [source, *overrides]
    config = load_config(source, overrides)
    return with_plugins(config, options)


def with_plugins(config: Config, options: Namespace) -> Config:
    """Add what ``--plugin`` and ``--skip-plugin`` name."""
    from dataclasses import replace

    return replace(
        config,
        plugins=[*config.plugins, *_new(options.plugin, config.plugins)],
        skip_plugins=[
            *config.skip_plugins,
            *_new(options.skip_plugin, config.skip_plugins),
        ],
    )


def _new(names: Sequence[str], known: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name not in known]


def _show(run_dir: Path) -> None:
    """Print a run's table and where its report lies."""
    from experiments.record.run_dir import read_run
    from experiments.report.page import sentences, summary_table, verdicts

    run = read_run(run_dir)
    found = verdicts(run)
    if found:
        console().print(summary_table(run))
        for sentence in sentences(found):
            print(sentence.replace("**", ""))
    print(f"report: {run_dir / 'report.md'}")


def print_table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Any]],
    numbers_from: int | None = None,
) -> None:
    """Print a table; columns from ``numbers_from`` on stand to the right."""
    from rich.table import Table

    table = Table()
    for place, head in enumerate(heads):
        number = numbers_from is not None and place >= numbers_from
        table.add_column(head, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    shown = console()
    shown.print(title, style="italic")  # a table's own title wraps at its width
    shown.print(table)


def console() -> Any:
    """Give a rich console that leaves tables whole in pipes and log files."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140, markup=False)


def _say(text: str) -> None:
    print(f"mtkd: {text}", file=sys.stderr)
