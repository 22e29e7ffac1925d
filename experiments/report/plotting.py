"""What every picture of a run needs: panels, colours, one axis of steps.

Figures are drawn on their own canvas, never through pyplot, so that drawing needs no
display and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.record.run_dir import MAIN, RunDir

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Placed = tuple[float, dict[str, Any]]
"""A metric line with its place on the axis of steps."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B7500")
"""Okabe and Ito's palette, told apart by most colour-blind readers."""

ARM_COLOURS = {MAIN: "#0072B2", "ce_only": "#7F7F7F", "best_single": "#E69F00"}

ON_PALE = "#1A1A1A"
"""Of words on a cell that is pale in the dark, too."""


def grid(
    count: int,
    columns: int,
    size: tuple[float, float],
    legend: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Make a figure of equal panels, ``size`` inches each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    height = size[1] * rows + 0.6 + (0.3 if legend else 0)
    inches = (size[0] * columns, height)
    figure = Figure(figsize=inches, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = []
    for index in range(count):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        axes.title.set_fontsize(10)
        panels.append(axes)
    return figure, panels


def on_one_axis(run: RunDir, kind: str) -> list[Placed]:
    """Put the phases of the main arm one after another on one axis of steps."""
    last_steps: dict[str, float] = {}
    for line in run.lines("train"):
        phase = str(line.get("phase"))
        last_steps[phase] = max(last_steps.get(phase, 0), line["step"])
    offsets, total = {}, 0.0
    for phase, last in last_steps.items():
        offsets[phase] = total
        total += last
    return [
        (offsets.get(str(line.get("phase")), 0.0) + line["step"], line)
        for line in run.lines(kind)
    ]


def by_phase(
    lines: Sequence[Placed],
) -> list[list[Placed]]:
    """Split lines at phase boundaries, keeping their order."""
    phases: dict[str, list[Placed]] = {}
    for x, line in lines:
        phases.setdefault(str(line.get("phase")), []).append((x, line))
    return list(phases.values())


def whole_steps(axes: Axes) -> None:
    """Number an axis of steps by whole ones."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))


def draw_course(axes: Axes, points: Sequence[tuple[float, float]], colour: str) -> None:
    """Draw a course over steps; of one point alone, that no line would show, a dot."""
    dot = "o" if len(points) == 1 else ""
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=colour, linewidth=1.6, marker=dot, markersize=4)


def mark_phases(axes: Axes, lines: Sequence[Placed], label: bool) -> None:
    """Draw a dotted line between phases, and name them on request; whole steps."""
    groups = by_phase(lines)
    whole_steps(axes)
    for index, group in enumerate(groups):
        first, last = group[0][0], group[-1][0]
        if index:
            edge = (groups[index - 1][-1][0] + first) / 2
            axes.axvline(edge, color="#9A9A9A", linewidth=0.8, linestyle=":")
        if label:
            axes.annotate(
                str(group[0][1].get("phase")),
                ((first + last) / 2, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, -2),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=6.5,
                color="#444444",
            )


def keys_of(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Give all keys of some mappings, in order of first sight."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))
