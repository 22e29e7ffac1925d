"""The table of checks: how they enter it, how it is run and shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Try = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Check:
    """One fact about one module."""

    module: str
    fact: str
    function: Try
    """Says what it saw; raises when the fact does not hold."""


CHECKS: list[Check] = []


def check(module: str, fact: str) -> Callable[[Try], Try]:
    """Put a function into the table."""

    def add(function: Try) -> Try:
        CHECKS.append(Check(module, fact, function))
        return function

    return add


def close(got: Any, expected: Any, atol: float = 1e-5) -> None:
    """Compare tensors or numbers; the error shows both."""
    got, expected = torch.as_tensor(got), torch.as_tensor(expected)
    torch.testing.assert_close(got, expected, atol=atol, rtol=1e-4, check_dtype=False)


def run(checks: Sequence[Check]) -> int:
    """Try every check, print the table, give the number that failed."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress
    from rich.table import Table

    table = Table(title="mtkd, module by module")
    for column in ("module", "fact", "seen"):
        table.add_column(column, overflow="fold")
    table.add_column("ms", justify="right")
    table.add_column("")
    failed = 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("the tiny zoo, if need be", total=len(checks))
        for entry in checks:
            started = time.perf_counter()
            try:
                told, mark = entry.function(), "[green]ok"
            except Exception as error:  # one that fails must not hide the others
                failed += 1
                told, mark = f"{type(error).__name__}: {error}", "[bold red]FAILED"
            ms = (time.perf_counter() - started) * 1000
            row = (entry.module, entry.fact, escape(told))
            table.add_row(*row, f"{ms:.0f}", mark)
            progress.update(bar, advance=1, description=entry.module)
    console = Console()
    console.print(table)
    console.print(f"{len(checks) - failed} passed, {failed} failed")
    return failed
