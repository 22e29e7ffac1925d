"""What is shown: tables on the console, whole in log files too, and pages."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console


def print_table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Any]],
    numbers_from: int | None = None,
) -> None:
    """Print a table; columns from ``numbers_from`` on stand to the right."""
    from rich.table import Table

    from align.foreign.quote import visible

    table = Table()
    for place, head in enumerate(heads):
        number = numbers_from is not None and place >= numbers_from
        side: Literal["right", "left"] = "right" if number else "left"
        table.add_column(visible(head), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*(visible(c) if isinstance(c, str) else c for c in row))
    shown = console()
    # beside the table: a title of its own wraps at its width
    shown.print(visible(title), style="italic")
    shown.print(table)


def show_report(run_dir: Path) -> None:
    """Print a run's table and where its report lies."""
    from experiments.record.run_dir import read_run
    from experiments.report.arms import arm_table
    from experiments.report.layout.document import plain
    from experiments.report.samples import sample_lines
    from experiments.report.verdicts import sentences, summary_table, verdicts

    run = read_run(run_dir)
    results = verdicts(run)
    if results:
        shown = console()
        shown.print(summary_table(run, shown.width))
        for sentence in sentences(results):
            print(plain(sentence))
    heads, rows = arm_table(run)
    if rows:
        title = "every student of that phase, and what the teachers need themselves"
        print_table(title, heads, rows, numbers_from=1)
    for line in sample_lines(run):
        console().print(line)
    print(f"report: {run_dir / 'report.html'}, and as text {run_dir / 'report.md'}")


def open_page(path: Path) -> None:
    """Show a page in the browser, or say where it is if none can be shown."""
    import webbrowser

    shown = has_display() and webbrowser.open(path.resolve().as_uri())
    if not shown:
        print(f"no browser here; open {path.resolve()}")


def has_display() -> bool:
    """Whether a window can be shown; a browser that ``BROWSER`` names needs none."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(k) for k in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def console() -> Console:
    """Give a rich console that leaves tables whole in pipes and log files."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # not rich's exit of 1: the command ends as without tables

    width = None if sys.stdout.isatty() else 140
    return Plain(width=width, markup=False, emoji=False)
