"""What came of a sweep: a row for each of its settings, the best one first."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from align.errors import InputError
from align.support.whole_file import write_whole
from experiments.record.history import write_json
from experiments.sweep.plan import Sweep
from experiments.sweep.space import Settings
from experiments.sweep.trials import Trial, measured, number

LEDGER = "ledger.json"
"""Every trial and row, for programs."""
TABLE = "table.md"
"""The table, for readers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One metric over the seeds of a row."""

    mean: float
    sd: float | None
    """Of a sample (n - 1); None for a single number."""
    count: int
    """Seeds that have a number, which may be fewer than the row has."""

    def __str__(self) -> str:
        """As tables show it."""
        return f"{self.mean:.4g}" + ("" if self.sd is None else f" ± {self.sd:.2g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Some settings, over all seeds."""

    settings: Settings
    cells: Mapping[str, Cell]
    """By metric; a metric that no seed measured is left out."""
    states: tuple[str, ...]
    """Of the trials, by seed."""
    seconds: float
    whole: bool
    """Whether every seed's trial is finished."""
    paused_at: int | None
    """Steps of the trials that a halving left behind; None of finished ones."""
    best: bool = False
    front: bool = False
    """Whether no other row is better by one of ``--pareto`` and as good by all."""

    def complete(self, metric: str) -> bool:
        """Whether every seed has a number of a metric."""
        cell = self.cells.get(metric)
        return cell is not None and cell.count == len(self.states)

    def shown(self, metric: str) -> str:
        """The number of a metric, and of how many seeds it is where some have none."""
        cell = self.cells.get(metric)
        if cell is None:
            return "–"
        part = "" if self.complete(metric) else f" ({cell.count} of {len(self.states)})"
        return f"{cell}{part}"


def rows_of(sweep: Sweep) -> list[Row]:
    """One row for each of the settings, best first.

    Rows of finished trials come first, then those that were paused, by how far they
    came, then those of which a seed failed; those without a number stand last. Only
    rows of which every seed is finished and has a number are the best or on the
    front.
    """
    rows = [_row(sweep, group, trials) for group, trials in sweep.groups.items()]
    sign = 1 if sweep.lower else -1

    def order(row: Row) -> tuple[Any, ...]:
        cell = row.cells.get(sweep.sought.by)
        failed = "failed" in row.states
        return (
            cell is None,
            failed,
            not row.whole,
            row.whole and not row.complete(sweep.sought.by),
            -(row.paused_at or 0),
            0.0 if cell is None else sign * cell.mean,
        )

    rows.sort(key=order)
    done = [row for row in rows if row.whole and row.complete(sweep.sought.by)]
    front = front_of(done, sweep)
    return [
        Row(
            **{name: getattr(row, name) for name in _PLAIN},
            best=bool(done) and row is done[0],
            front=any(row is other for other in front),
        )
        for row in rows
    ]


_PLAIN = ("settings", "cells", "states", "seconds", "whole", "paused_at")


def front_of(rows: Sequence[Row], sweep: Sweep) -> list[Row]:
    """Rows that no other one beats by a metric of ``--pareto`` without losing by
    another."""
    wanted = sweep.sought.pareto
    known = [row for row in rows if all(map(row.complete, wanted))]
    if not wanted:
        return []

    def costs(row: Row) -> list[float]:
        return [
            row.cells[n].mean * (1 if sweep.metrics[n].better == "lower" else -1)
            for n in wanted
        ]

    def beaten(row: Row) -> bool:
        mine = costs(row)
        return any(
            theirs != mine and all(x <= y for x, y in zip(theirs, mine, strict=True))
            for theirs in map(costs, known)
        )

    return [row for row in known if not beaten(row)]


def standing(sweep: Sweep, trials: Sequence[Trial], steps: int) -> float | None:
    """Where settings stand after exactly so many steps: the mean over their seeds.

    Returns:
        None where a seed did not come so far or has no number there: it failed, or
        was measured at other steps alone.
    """
    if not all(trial.reached(steps) for trial in trials):
        return None
    values = [number(measured(t, steps), sweep.sought.by) for t in trials]
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def check_parts(sweep: Sweep) -> None:
    """See that a trial that was measured has the parts that are asked for.

    Raises:
        InputError: none has; names those that there are.
    """
    came = [t for t in sweep.trials if t.state in ("done", "paused")]
    of_trials = [measured(t, _paused_at(t)) for t in came]
    for wanted in dict.fromkeys((sweep.sought.by, *sweep.sought.pareto)):
        metric, _, part = wanted.partition(":")
        parts = dict.fromkeys(p for of_one in of_trials for p in of_one.get(metric, {}))
        if not part or not parts or part in parts:
            continue
        option = "--by" if wanted == sweep.sought.by else "--pareto"
        trained = "and another --name" if sweep.rungs else "trained trials are kept"
        raise InputError(
            f"{option} is {wanted}, but no trial has that part; {metric} has "
            f"{', '.join(parts)}: give one of these, such as "
            f"{metric}:{next(iter(parts))}; {trained}"
        )


def check_measured(sweep: Sweep) -> None:
    """See that, of the trials that came as far as a number, one has it.

    Raises:
        InputError: none has a finite one of ``--by`` or ``--pareto``, or they lack that
            part.
    """
    check_parts(sweep)
    came = [t for t in sweep.trials if t.state in ("done", "paused")]
    of_trials = [measured(t, _paused_at(t)) for t in came]
    for wanted in dict.fromkeys((sweep.sought.by, *sweep.sought.pareto)):
        if not came or any(number(of_one, wanted) is not None for of_one in of_trials):
            continue
        option = "--by" if wanted == sweep.sought.by else "--pareto"
        raise InputError(
            f"{option} is {wanted}, of which none of the {len(came)} trials that came "
            "so far has a finite number: nothing can be compared; see the notes and "
            f"logs in {sweep.folder}"
        )


def _paused_at(trial: Trial) -> int | None:
    return None if trial.finished else int(trial.noted().get("paused_at") or 0)


def _row(sweep: Sweep, group: Settings, trials: Sequence[Trial]) -> Row:
    whole = all(trial.finished for trial in trials)
    paused = [int(t.noted().get("paused_at") or 0) for t in trials if not t.finished]
    left = min(paused) if paused and not whole and min(paused) else None
    metrics = [measured(trial, left) for trial in trials]
    cells = {}
    for name in dict.fromkeys((sweep.sought.by, *sweep.sought.pareto)):
        values = [number(of_one, name) for of_one in metrics]
        known = [value for value in values if value is not None]
        if known:
            sd = statistics.stdev(known) if len(known) > 1 else None
            cells[name] = Cell(mean=statistics.fmean(known), sd=sd, count=len(known))
    return Row(
        settings=group,
        cells=cells,
        states=tuple(trial.state for trial in trials),
        seconds=sum(float(t.noted().get("seconds") or 0.0) for t in trials),
        whole=whole,
        paused_at=left,
    )


def heads_of(sweep: Sweep) -> list[str]:
    """Of the table's columns."""
    keys = dict.fromkeys(key for trial in sweep.trials for key, _ in trial.group)
    metrics = dict.fromkeys((sweep.sought.by, *sweep.sought.pareto))
    named = []
    for name in metrics:
        unit = sweep.metrics[name].unit
        named.append(f"{name} ({unit})" if unit else name)
    return ["", *(key.rpartition(".")[2] for key in keys), *named, "trials", "min"]


def shown_rows(sweep: Sweep, rows: Sequence[Row]) -> list[list[str]]:
    """The table's cells."""
    keys = list(dict.fromkeys(key for trial in sweep.trials for key, _ in trial.group))
    metrics = list(dict.fromkeys((sweep.sought.by, *sweep.sought.pareto)))
    return [
        [
            ("*" if row.best else "") + ("P" if row.front else ""),
            *(_value(dict(row.settings).get(key)) for key in keys),
            *(row.shown(name) for name in metrics),
            _states(row),
            f"{row.seconds / 60:.1f}",
        ]
        for row in rows
    ]


def legend(sweep: Sweep, rows: Sequence[Row]) -> str:
    """What the table's marks mean."""
    way = "lower" if sweep.lower else "higher"
    said = f"by {sweep.sought.by}, {way} is better; * is the best"
    if sweep.sought.pareto:
        said += f", P on the front between {' and '.join(sweep.sought.pareto)}"
    if any(cell.sd is not None for row in rows for cell in row.cells.values()):
        said += "; mean ± standard deviation over seeds"
    if any(not row.complete(name) for row in rows for name in row.cells):
        said += "; (n of m): only n of m seeds have a number, such a row is not marked"
    if any(row.paused_at for row in rows):
        said += "; a paused row's number is of its last rung"
    return said


def publish(sweep: Sweep) -> list[Row]:
    """Write the ledger and the table as things stand; gives the rows."""
    from filelock import FileLock

    with FileLock(str(sweep.folder / ".lock")):
        rows = rows_of(sweep)
        write_json(
            sweep.folder / LEDGER,
            {
                "by": sweep.sought.by,
                "metrics": {name: asdict(m) for name, m in sweep.metrics.items()},
                "rows": [_plain(row) for row in rows],
                "trials": [_of_trial(trial) for trial in sweep.trials],
            },
        )
        write_whole(sweep.folder / TABLE, _markdown(sweep, rows))
    return rows


def _markdown(sweep: Sweep, rows: Sequence[Row]) -> str:
    heads = heads_of(sweep)
    lines = [heads, ["---"] * len(heads), *shown_rows(sweep, rows)]
    table = "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in lines
    )
    return f"# {sweep.folder.name}\n\n{legend(sweep, rows)}.\n\n{table}\n"


def _plain(row: Row) -> dict[str, Any]:
    cells = {name: asdict(cell) for name, cell in row.cells.items()}
    return {**asdict(row), "settings": dict(row.settings), "cells": cells}


def _of_trial(trial: Trial) -> dict[str, Any]:
    return {
        **trial.noted(),
        "name": trial.name,
        "settings": dict(trial.settings),
        "state": trial.state,
        "run": str(trial.run_dir),
    }


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _states(row: Row) -> str:
    if row.paused_at is not None and set(row.states) <= {"paused", "done"}:
        return f"paused at {row.paused_at}"
    counts = {s: row.states.count(s) for s in dict.fromkeys(row.states)}
    if len(row.states) == 1:
        return row.states[0]
    return ", ".join(f"{count} {state}" for state, count in counts.items())
