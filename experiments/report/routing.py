"""Pictures over layers: which teacher was asked for which text and in which layer, how
far gates stand open, and which layers were compared."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.record.run_dir import RunDir
from experiments.report.plotting import (
    COLOURS,
    Placed,
    by_phase,
    draw_course,
    grid,
    keys_of,
    mark_phases,
    on_one_axis,
    whole_steps,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TEXTS_SHOWN, _COLUMNS = 3, 100
"""How many texts are drawn, and how many cells a line of one has."""


def draw_routing_domains(run: RunDir) -> Figure | None:
    """Draw each domain's mean weight per teacher over the steps; None without."""
    lines = [(x, line) for x, line in on_one_axis(run, "routing")]
    domains = keys_of(line.get("weights", {}) for _, line in lines)
    if not domains:
        return None
    teachers = keys_of(
        weights for _, line in lines for weights in line["weights"].values()
    )
    figure, panels = grid(len(domains), columns=2, size=(5.4, 3.0), legend=True)
    for axes, domain in zip(panels, domains, strict=True):
        for run_of_lines in by_phase(lines):
            _stack(axes, run_of_lines, domain, teachers)
        axes.set_title(f"text of domain {domain}", loc="left")
        axes.set_ylabel("mean weight")
        axes.set_ylim(0, 1)
        mark_phases(axes, lines, label=True)
        axes.set_xlabel("optimiser step")
    _name_teachers(figure, teachers)
    figure.suptitle(f"{run.name}: which teacher the router asks")
    return figure


def draw_routing_layers(run: RunDir) -> Figure | None:
    """Draw each teacher's weight per student layer over the steps; None without."""
    lines = [(x, line) for x, line in on_one_axis(run, "routing")]
    layers = sorted(keys_of(line.get("layers", {}) for _, line in lines), key=_number)
    if not layers:
        return None
    teachers = keys_of(
        weights for _, line in lines for weights in line.get("layers", {}).values()
    )
    figure, panels = grid(len(teachers), columns=3, size=(4.2, 2.6))
    image = None
    for axes, teacher in zip(panels, teachers, strict=True):
        cells = [
            [
                line.get("layers", {}).get(layer, {}).get(teacher, math.nan)
                for _, line in lines
            ]
            for layer in layers
        ]
        image = axes.imshow(
            cells, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower"
        )
        axes.set_facecolor("#EDEDED")  # where this teacher took no part
        axes.set_title(teacher, loc="left")
        axes.set_yticks(range(len(layers)), layers)
        axes.set_ylabel("student layer")
        _step_ticks(axes, lines)
    if image is not None:
        figure.colorbar(image, ax=list(panels), label="mean weight", shrink=0.9)
    figure.suptitle(f"{run.name}: routing weight per layer")
    return figure


def draw_routing_kinds(run: RunDir) -> Figure | None:
    """Draw each teacher's mean weight by what tokens hold, in each phase's second half;
    None without."""
    lines = [each for each in on_one_axis(run, "routing") if each[1].get("kinds")]
    if not lines:
        return None
    phases = by_phase(lines)
    teachers = keys_of(w for _, line in lines for w in line["kinds"].values())
    figure, panels = grid(len(phases), columns=2, size=(5.4, 2.4), legend=True)
    for axes, group in zip(panels, phases, strict=True):
        late = [line["kinds"] for _, line in group[len(group) // 2 :]]
        kinds = keys_of(late)[::-1]
        left = [0.0] * len(kinds)
        for index, teacher in enumerate(teachers):
            shares = [
                _mean([row[kind].get(teacher, 0.0) for row in late if kind in row])
                for kind in kinds
            ]
            colour = COLOURS[index % len(COLOURS)]
            axes.barh(kinds, shares, left=left, color=colour, alpha=0.85)
            left = [a + b for a, b in zip(left, shares, strict=True)]
        axes.set_title(str(group[0][1].get("phase")), loc="left")
        axes.set_xlim(0, 1)
        axes.set_xlabel("mean weight")
    _name_teachers(figure, teachers)
    figure.suptitle(f"{run.name}: which teacher is asked for which tokens")
    return figure


def draw_routing_text(run: RunDir) -> Figure | None:
    """Draw the last text of each domain that was kept, every token in its teacher's
    colour; None without."""
    lines = [each for each in on_one_axis(run, "routing") if each[1].get("sample")]
    if not lines:
        return None
    latest = {line["sample"]["domain"]: (x, line["sample"]) for x, line in lines}
    shown = list(latest.items())[-_TEXTS_SHOWN:]
    teachers = keys_of(dict.fromkeys(each["names"]) for _, (_, each) in shown)
    rows = max(_cells(sample["text"])[1] for _, (_, sample) in shown)
    size = (9.0, 0.5 + 0.225 * rows)
    figure, panels = grid(len(shown), columns=1, size=size, legend=True)
    for axes, (domain, (x, sample)) in zip(panels, shown, strict=True):
        axes.set_title(f"text of domain {domain}, step {x:g}", loc="left")
        _write_text(axes, sample, teachers, rows)
    _name_teachers(figure, teachers)
    figure.suptitle(f"{run.name}: who led on each token")
    return figure


def _cells(text: str) -> tuple[list[tuple[int, int, int]], int]:
    """Column, row and width of each character, a wide one taking two; and the rows."""
    cells, column, row = [], 0, 0
    for character in text:
        wide = 1 + (unicodedata.east_asian_width(character) in "WF")
        if character == "\n" or column + wide > _COLUMNS:
            row, column = row + 1, 0
        cells.append((column, row, 0 if character == "\n" else wide))
        column += 0 if character == "\n" else wide
    return cells, row + 1


def _write_text(
    axes: Axes, sample: Mapping[str, Any], teachers: list[str], rows: int
) -> None:
    """Write a text on a grid of cells with so many rows."""
    text, cells = sample["text"], _cells(sample["text"])[0]
    tokens = zip(
        *(sample[key] for key in ("starts", "ends", "teachers", "weights")), strict=True
    )
    for start, end, teacher, weight in tokens:
        index = teachers.index(sample["names"][teacher])
        for x, y, wide in cells[start:end] if weight else ():
            colour = COLOURS[index % len(COLOURS)]
            box = {"color": colour, "alpha": 0.15 + 0.5 * weight, "linewidth": 0}
            axes.add_patch(_rectangle((x, y), wide, **box))
    for character, (x, y, wide) in zip(text, cells, strict=True):
        if not character.isspace():
            place = (x + wide / 2, y + 0.5)
            axes.text(*place, character, ha="center", va="center", fontsize=7)
    axes.set_xlim(0, _COLUMNS)
    axes.set_ylim(rows, 0)  # lines of one height, in all texts
    axes.set_axis_off()


def draw_gates(run: RunDir) -> Figure | None:
    """Draw each layer's injection gate over the steps; None without gates.

    Phases whose gates never move (no outcome was computed) are left out.
    """
    lines = [(x, line) for x, line in on_one_axis(run, "train") if line.get("gates")]
    phases = [
        group
        for group in by_phase(lines)
        if any(line["gates"] != group[0][1]["gates"] for _, line in group)
    ]
    if not phases:
        return None
    figure, panels = grid(len(phases), columns=2, size=(5.4, 2.8), legend=True)
    count = max(len(line["gates"]) for group in phases for _, line in group)
    for axes, group in zip(panels, phases, strict=True):
        for gate in range(count):
            points = [(x, ln["gates"][gate]) for x, ln in group if ln["gates"][gate:]]
            if points:
                colour = COLOURS[gate % len(COLOURS)]
                draw_course(axes, points, colour)
        whole_steps(axes)
        axes.set_title(str(group[0][1].get("phase")), loc="left")
        axes.set_ylabel("gate (0: own, 1: fused)")
        axes.set_xlabel("optimiser step")
    handles = [
        _patch(COLOURS[gate % len(COLOURS)], f"layer {gate}") for gate in range(count)
    ]
    columns = min(count, 8)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False
    )
    figure.suptitle(f"{run.name}: how much fused KV each student layer lets in")
    return figure


def draw_compared_layers(run: RunDir) -> Figure | None:
    """Draw which layers terms compared over the steps; None where settings say so."""
    lines = [(x, line) for x, line in on_one_axis(run, "train") if _layered(line)]
    terms = keys_of(_layered(line) for _, line in lines)
    if not terms:
        return None
    from matplotlib.ticker import MaxNLocator

    figure, panels = grid(len(terms), columns=2, size=(5.4, 2.6))
    for axes, term in zip(panels, terms, strict=True):
        strip = [(x, line) for x, line in lines if term in _layered(line)]
        columns = [_layered(line)[term] for _, line in strip]
        highest = max(layer for column in columns for layer in column)
        cells = [
            [column.get(layer, 0.0) for column in columns]
            for layer in range(highest + 1)
        ]
        axes.imshow(cells, vmin=0, cmap="viridis", aspect="auto", origin="lower")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(term, loc="left")
        axes.set_ylabel("student layer")
        _step_ticks(axes, strip)
    figure.suptitle(f"{run.name}: layers that terms compared")
    return figure


def _layered(line: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """How much each layer counts, by term: its weight, or 1 where it is compared."""
    read = line.get("layers", {}).items()
    weights = line.get("layer_weights", {}).items()
    return {term: dict.fromkeys(layers, 1.0) for term, layers in read} | {
        term: dict(enumerate(shares)) for term, shares in weights
    }


def _stack(
    axes: Axes,
    lines: Sequence[Placed],
    domain: str,
    teachers: Sequence[str],
) -> None:
    given = [(x, line["weights"].get(domain, {})) for x, line in lines]
    given = [(x, weights) for x, weights in given if weights]
    if not given:
        return
    if len(given) == 1:  # a stack needs two places to stand between
        given = [(given[0][0] - 0.5, given[0][1]), (given[0][0] + 0.5, given[0][1])]
    axes.stackplot(
        [x for x, _ in given],
        [[weights.get(teacher, 0.0) for _, weights in given] for teacher in teachers],
        colors=[COLOURS[i % len(COLOURS)] for i in range(len(teachers))],
        alpha=0.85,
        linewidth=0,
    )


def _step_ticks(axes: Axes, lines: Sequence[Placed]) -> None:
    every = max(1, len(lines) // 6)
    places = list(range(0, len(lines), every))
    axes.set_xticks(places, [f"{lines[i][0]:g}" for i in places])
    axes.set_xlabel("optimiser step")
    axes.grid(False)
    groups = by_phase(lines)
    edge = -0.5
    for group in groups[:-1]:
        edge += len(group)
        axes.axvline(edge, color="white", linewidth=1.5)


def _name_teachers(figure: Figure, teachers: Sequence[str]) -> None:
    handles = [
        _patch(COLOURS[i % len(COLOURS)], name) for i, name in enumerate(teachers)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(teachers), frameon=False
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _rectangle(corner: tuple[float, float], width: float, **looks: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, 1, **looks)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label, alpha=0.85)


def _number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdigit() else (10**9, text)
