"""One picture of a sweep: its metric over each setting, or the front of two metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.report.plotting import COLOURS, grid
from experiments.sweep.plan import Sweep
from experiments.sweep.table import Row, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "sweep.png"
_MOST = 6
"""Panels."""


def draw_sweep(sweep: Sweep) -> Path | None:
    """Draw what came of a sweep.

    Returns:
        The picture; None where nothing has a number yet.
    """
    rows = [row for row in rows_of(sweep) if sweep.sought.by in row.cells]
    if not rows:
        return None
    if len(sweep.sought.pareto) >= 2:
        figure, panels = grid(1, 1, (5.0, 3.8))
        _front(panels[0], sweep, rows)
    else:
        keys = list(dict.fromkeys(key for row in rows for key, _ in row.settings))
        keys = [key for key in keys if len({_shown(row, key) for row in rows}) > 1]
        figure, panels = grid(max(1, len(keys[:_MOST])), 3, (3.6, 3.0))
        for key, panel in zip(keys[:_MOST] or [""], panels, strict=True):
            _over(panel, sweep, rows, key)
    path = sweep.folder / PICTURE
    figure.savefig(path)
    return path


def _over(axes: Axes, sweep: Sweep, rows: Sequence[Row], key: str) -> None:
    """The metric of every row over one setting, and a line through each value's
    best."""
    by = sweep.sought.by
    numbers = [x for x in (_number(row, key) for row in rows) if x is not None]
    plain = len(numbers) == len(rows)
    words = sorted({_shown(row, key) for row in rows})
    ranks = [float(words.index(_shown(row, key))) for row in rows]
    places = numbers if plain else ranks
    best: dict[float, float] = {}
    for row, x in zip(rows, places, strict=True):
        cell = row.cells[by]
        axes.errorbar(
            x,
            cell.mean,
            yerr=cell.sd,
            marker="*" if row.best else "o",
            markersize=11 if row.best else 5,
            color=COLOURS[1] if row.best else COLOURS[0],
            alpha=1.0 if row.whole else 0.35,
            capsize=3,
        )
        if row.whole:
            pick = min if sweep.lower else max
            best[x] = pick(best.get(x, cell.mean), cell.mean)
    line = sorted(best.items())
    axes.plot([x for x, _ in line], [y for _, y in line], color=COLOURS[0], alpha=0.5)
    if plain:
        if min(numbers) > 0 and max(numbers) >= 10 * min(numbers):
            axes.set_xscale("log")
    else:
        axes.set_xticks(range(len(words)), words, rotation=20, fontsize=7)
    axes.set_xlabel(key.rpartition(".")[2], fontsize=9)
    axes.set_ylabel(_label(sweep, by), fontsize=9)


def _front(axes: Axes, sweep: Sweep, rows: Sequence[Row]) -> None:
    """All rows by two metrics, with those that no other one beats on a line."""
    first, second = sweep.sought.pareto[:2]
    rows = [row for row in rows if first in row.cells and second in row.cells]
    for row in rows:
        x, y = row.cells[first], row.cells[second]
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=x.sd,
            yerr=y.sd,
            marker="o",
            color=COLOURS[1] if row.front else COLOURS[0],
            alpha=1.0 if row.whole else 0.35,
            capsize=3,
        )
        if row.front:
            label = ", ".join(_shown(row, key) for key, _ in row.settings)
            axes.annotate(label, (x.mean, y.mean), fontsize=6.5)
    line = sorted((r.cells[first].mean, r.cells[second].mean) for r in rows if r.front)
    axes.plot([x for x, _ in line], [y for _, y in line], color=COLOURS[1], alpha=0.6)
    axes.set_xlabel(_label(sweep, first), fontsize=9)
    axes.set_ylabel(_label(sweep, second), fontsize=9)


def _label(sweep: Sweep, name: str) -> str:
    metric = sweep.metrics[name]
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"{name}{unit}, {metric.better} is better"


def _number(row: Row, key: str) -> float | None:
    value = dict(row.settings).get(key)
    if isinstance(value, str):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            return None
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and value is not None else None


def _shown(row: Row, key: str) -> str:
    return str(dict(row.settings).get(key))
