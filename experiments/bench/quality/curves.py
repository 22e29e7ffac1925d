"""Arms at several lengths: held-out bits over steps and over processor seconds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiments.bench.quality.arm import CE_ONLY, Arm
from experiments.bench.quality.table import Outcome, is_whole, read_outcome
from experiments.bench.quality.train import Setup
from experiments.report.plotting import COLOURS, grid


@dataclass(frozen=True, order=True, slots=True)
class Point:
    """An arm at one length, the mean over seeds."""

    steps: int
    """Optimiser steps."""
    cost: float
    """Processor seconds of a run, with what its teachers took before it."""
    bits: float
    """Held-out bits per character, the mean over domains."""


Curves = Mapping[str, Sequence[Point]]
"""By arm its points, the shortest first."""


def curves_of(
    beds: Sequence[Setup], arms: Sequence[Arm], seeds: Sequence[int]
) -> dict[str, list[Point]]:
    """Read every length of every arm whose seeds are all trained.

    CE only for longer is a point of CE only.
    """
    curves: dict[str, list[Point]] = {}
    for bed in beds:
        for arm in arms:
            if is_whole(bed, arm, seeds):
                name = CE_ONLY if arm.plain else arm.name
                outcome = read_outcome(bed, arm, seeds)
                curves.setdefault(name, []).append(_point(bed, outcome))
    return {name: sorted(set(points)) for name, points in curves.items()}


def _point(bed: Setup, outcome: Outcome) -> Point:
    mean = outcome.mean()
    steps = outcome.arm.steps(bed.steps) * len(outcome.arm.phases)
    return Point(steps, outcome.cost, sum(mean.values()) / len(mean))


def at_equal_cost(points: Sequence[Point], cost: float) -> float | None:
    """Bits of the best student that so many seconds give, training ended where it was
    best: at a point within them, or between two on a straight line over the logarithm
    of the cost.

    Args:
        points: of one arm without a teacher.
        cost: processor seconds.

    Returns:
        None where less than the cheapest point is asked for, and beyond the dearest one
        as long as that is the best: longer training may be better still.
    """
    ordered = sorted(points, key=lambda point: point.cost)
    within = [point.bits for point in ordered if point.cost <= cost]
    if not within:
        return None
    if cost > ordered[-1].cost:
        return None if ordered[-1].bits == min(within) else min(within)
    for left, right in pairwise(ordered):
        if left.cost <= cost <= right.cost and right.bits < left.bits:
            share = math.log(cost / left.cost) / math.log(right.cost / left.cost)
            within.append(left.bits + share * (right.bits - left.bits))
    return min(within)


def best_at(curves: Sequence[Sequence[Point]], cost: float) -> float | None:
    """The least bits of several arms at this cost, each between its own points.

    Returns:
        None where none was trained for so little, or where the best by then was still
        getting better as it ended: longer training of it may be better still.
    """
    known = [bits for points in curves if (bits := at_equal_cost(points, cost))]
    ended = [
        min(point.bits for point in points)
        for points in curves
        if max(point.cost for point in points) < cost
    ]
    best = min((*known, *ended), default=None)
    return best if best in known else None


def curve_table(curves: Curves, alone: Collection[str]) -> list[list[str]]:
    """Heads and rows: arm, steps, seconds, bits, and in per cent against CE only.

    Args:
        curves: of all arms.
        alone: names of those without a teacher, CE only and how it was tuned.

    Returns:
        At equal steps arms are held against CE only, at equal time against the best of
        the arms without a teacher; blank where those were not trained so long.
    """
    rows = [["arm", "steps", "seconds", "mean", "equal steps, %", "equal time, %"]]
    by_steps = {point.steps: point.bits for point in curves.get(CE_ONLY, ())}
    plain = [curves[name] for name in alone if curves.get(name)]
    for name, points in curves.items():
        for point in points:
            row = [name, f"{point.steps:,}", f"{point.cost:.0f}", f"{point.bits:.3f}"]
            against = None if name in alone else best_at(plain, point.cost)
            for other in (by_steps.get(point.steps), against):
                if other is None or name == CE_ONLY:
                    row.append("")
                else:
                    row.append(f"{100 * (point.bits / other - 1):+.1f}")
            rows.append(row)
    return rows


def draw_curves(curves: Curves, path: Path) -> None:
    """Draw all arms over steps and over processor seconds."""
    from matplotlib.ticker import LogFormatter

    figure, panels = grid(2, 2, (4.2, 3.4))
    for axes, field, label in zip(
        panels, ("steps", "cost"), ("steps", "processor seconds"), strict=True
    ):
        for index, (name, points) in enumerate(curves.items()):
            _draw_one(axes, name, points, field, index)
        axes.set_xscale("log")
        plain_numbers = LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5))
        axes.xaxis.set_major_formatter(plain_numbers)
        axes.xaxis.set_minor_formatter(plain_numbers)
        axes.tick_params(axis="x", which="both", labelsize=7)
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylabel("held-out bits per character", fontsize=8)
    panels[0].legend(fontsize=6)
    figure.savefig(path, dpi=120)


def _draw_one(
    axes: Any, name: str, points: Sequence[Point], field: str, index: int
) -> None:
    is_plain = name == CE_ONLY
    axes.plot(
        [getattr(point, field) for point in points],
        [point.bits for point in points],
        marker="o" if is_plain else "sv^D<>"[index // len(COLOURS) % 6],
        color="0.3" if is_plain else COLOURS[index % len(COLOURS)],
        linestyle="--" if is_plain else "-",
        markersize=4,
        label=name,
    )
