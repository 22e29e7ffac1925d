"""Pictures of a run: losses, coverage, and the comparison with baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.foreign.inside import file_inside
from align.pictures.fonts import legible
from align.pictures.layout import laid_out
from align.support.whole_file import whole_file
from experiments.record.run_dir import MAIN, METRICS, RunDir, mean_bpc
from experiments.report.evaluation.asked import draw_asked
from experiments.report.evaluation.exits import draw_exits
from experiments.report.evaluation.order import draw_order
from experiments.report.plotting import (
    ARM_COLOURS,
    COLOURS,
    ON_PALE,
    by_phase,
    draw_course,
    grid,
    keys_of,
    mark_phases,
    on_one_axis,
)
from experiments.report.routing import (
    draw_compared_layers,
    draw_gates,
    draw_routing_domains,
    draw_routing_kinds,
    draw_routing_layers,
    draw_routing_text,
)
from experiments.run.alarms import HEALTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_run(run: RunDir, folder: Path | None = None) -> list[Path]:
    """Draw every picture for which the run holds data, as PNG and as SVG.

    Args:
        run: what was read of it.
        folder: where to write; None for the run's ``figures``.

    Returns:
        Paths of the PNG files.
    """
    drawings = {
        "comparison": draw_comparison,
        "losses": draw_losses,
        "balance": draw_balance,
        "selection": draw_selection,
        "schedules": draw_schedules,
        "compared_layers": draw_compared_layers,
        "asked": draw_asked,
        "routing_domains": draw_routing_domains,
        "routing_kinds": draw_routing_kinds,
        "routing_text": draw_routing_text,
        "routing_layers": draw_routing_layers,
        "gates": draw_gates,
        "health": draw_health,
        "order": draw_order,
        "exits": draw_exits,
        "coverage": draw_coverage,
    }
    folder = folder or run.figures
    written = []
    for name, draw in drawings.items():
        figure = draw(run)
        if figure is not None:
            written.append(folder / f"{name}.png")
            _save(legible(figure), written[-1])
    return written + draw_layer_similarity(run, folder)


def _save(figure: Figure, path: Path) -> None:
    """Write a picture, and beside it as a drawing without background for a page."""
    from matplotlib import rc_context

    text = rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem})
    with laid_out(figure), text:
        with whole_file(path) as part:
            figure.savefig(part, format="png", facecolor="white")
        with whole_file(path.with_suffix(".svg")) as part:
            metadata = {"Date": None}
            figure.savefig(part, format="svg", transparent=True, metadata=metadata)


def draw_layer_similarity(run: RunDir, folder: Path) -> list[Path]:
    """Draw how alike layers are, with those chosen, of phases that looked at it.

    Returns:
        Paths of the PNG files, one a phase.
    """
    latest = {line["phase"]: line["teachers"] for line in run.lines("layer_similarity")}
    if not latest:
        return []
    from torch import tensor

    from align.layer_map import LayerMap
    from align.pictures.similarity import visualize_layer_similarity

    written = []
    for phase, teachers in latest.items():
        picture = f"layer_similarity_{phase}.png"
        written.append(file_inside(folder, picture, run.path / METRICS))
        visualize_layer_similarity(
            [tensor(layers["cka"]) for layers in teachers.values()],
            [LayerMap(_feeds(layers["map"])) for layers in teachers.values()],
            list(teachers),
            written[-1],
        )
    return written


def _feeds(rows: list[Any]) -> tuple[tuple[tuple[int, float], ...], ...]:
    """A layer map as JSON holds it."""
    return tuple(tuple((layer, weight) for layer, weight in row) for row in rows)


def draw_losses(run: RunDir) -> Figure | None:
    """Draw every loss term over the steps of all phases; None without data."""
    lines = on_one_axis(run, "train")
    if not lines:
        return None
    terms = keys_of([{"loss": None}, *(line.get("terms", {}) for _, line in lines)])
    figure, panels = grid(len(terms), columns=3, size=(4.0, 2.4))
    for axes, term in zip(panels, terms, strict=True):
        last = None
        for group in by_phase(lines):
            values = [(x, _term(line, term)) for x, line in group]
            points = [(x, y) for x, y in values if y is not None]
            if points:
                last = points[-1][1]
                draw_course(axes, points, COLOURS[0])
        axes.set_title("total loss" if term == "loss" else term, loc="left")
        if last is not None:
            axes.set_title(f"last {last:.3g}", loc="right", fontsize=8, color="#666666")
        axes.set_xlim(0, lines[-1][0] * 1.02)
        axes.margins(y=0.2)
        mark_phases(axes, lines, label=term == "loss")
    figure.supxlabel("optimiser step, phases in a row", fontsize=9)
    figure.suptitle(f"{run.name}: losses of the distilled student")
    return figure


def draw_balance(run: RunDir) -> Figure | None:
    """Draw by what a balancer multiplied every term; None where none did."""
    lines = [(x, line) for x, line in on_one_axis(run, "train") if line.get("balance")]
    terms = keys_of(line["balance"] for _, line in lines)
    if not terms:
        return None
    figure, (axes,) = grid(1, columns=1, size=(7.0, 3.2))
    for index, term in enumerate(terms):
        colour, label = COLOURS[index % len(COLOURS)], term
        style = ("-", "--", ":")[index // len(COLOURS) % 3]
        for group in by_phase(lines):
            points = [(x, line["balance"].get(term, math.nan)) for x, line in group]
            axes.plot(
                *zip(*points, strict=True), color=colour, linestyle=style, label=label
            )
            label = ""
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.yaxis.set_major_formatter("{x:g}")  # the scale's own writes formulas
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    axes.set_title("what every term was multiplied with", loc="left")
    mark_phases(axes, lines, label=True)
    figure.supxlabel("optimiser step, phases in a row", fontsize=9)
    return figure


def draw_selection(run: RunDir) -> Figure | None:
    """Draw what every selector kept, by domain; None where none selected."""
    lines = [(x, line["selectors"]) for x, line in on_one_axis(run, "selection")]
    names = keys_of(selectors for _, selectors in lines)
    if not names:
        return None
    figure, panels = grid(len(names), columns=2, size=(4.4, 2.6))
    domains = keys_of(each["domains"] for _, line in lines for each in line.values())
    for axes, name in zip(panels, names, strict=True):
        every = [(x, line[name]) for x, line in lines if name in line]
        for index, domain in enumerate(domains):
            points = [(x, each["domains"].get(domain, math.nan)) for x, each in every]
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(*zip(*points, strict=True), color=colour, label=domain)
        points = [(x, each["kept"]) for x, each in every]
        axes.plot(*zip(*points, strict=True), color="#9A9A9A", label="places kept")
        axes.set_title(name, loc="left")
        axes.set_ylim(bottom=0)
    lines_drawn = panels[0].get_lines()
    labels = [str(line.get_label()) for line in lines_drawn]
    figure.legend(lines_drawn, labels, loc="outside right center", frameon=False)
    figure.supxlabel("optimiser step, phases in a row", fontsize=9)
    figure.suptitle("mean weight of places", fontsize=10)
    return figure


def draw_schedules(run: RunDir) -> Figure | None:
    """Draw every setting that moved by a schedule; None where none did."""
    lines = [(x, line) for x, line in on_one_axis(run, "train")]
    places = keys_of(line.get("schedules", {}) for _, line in lines)
    if not places:
        return None
    figure, panels = grid(len(places), columns=3, size=(4.0, 2.4))
    for axes, place in zip(panels, places, strict=True):
        for group in by_phase(lines):
            values = [(x, line.get("schedules", {}).get(place)) for x, line in group]
            points = [(x, y) for x, y in values if y is not None]
            if points:
                draw_course(axes, points, COLOURS[0])
        axes.set_title(place, loc="left")
        axes.set_xlim(0, lines[-1][0] * 1.02)
        axes.margins(y=0.2)
        mark_phases(axes, lines, label=place == places[0])
    figure.supxlabel("optimiser step, phases in a row", fontsize=9)
    return figure


def draw_health(run: RunDir) -> Figure | None:
    """Draw what the alarms for a collapse look at; None where nobody looked."""
    lines = on_one_axis(run, "health")
    names = keys_of(line["against_start"] for _, line in lines)
    if not names:
        return None
    figure, panels = grid(len(names), columns=2, size=(4.4, 2.2))
    for axes, name in zip(panels, names, strict=True):
        for group in by_phase(lines):
            points = [(x, line["against_start"][name]) for x, line in group]
            axes.plot(*zip(*points, strict=True), color=COLOURS[0], marker=".")
        axes.axhline(1.0, color="#9A9A9A", linewidth=0.8)
        highest = max(line["against_start"][name] for _, line in lines)
        axes.set_ylim(0, 1.25 * max(1.0, highest))  # names of phases stand on top
        axes.set_title(HEALTH[name][0], loc="left")
        mark_phases(axes, lines, label=True)
    figure.supxlabel("optimiser step, phases in a row", fontsize=9)
    figure.suptitle(f"{run.name}: the student's KV as shares of each phase's start")
    return figure


def draw_comparison(run: RunDir) -> Figure | None:
    """Draw what each phase saved against its baselines; None without data.

    The axis counts from the CE-only student of the same phase: phases differ by more
    than arms do, so on an absolute axis the comparison would not be seen. Without a
    CE-only arm the axis is absolute.
    """
    phases = [entry for entry in run.summary.get("phases", []) if entry.get("bpc")]
    if not phases:
        return None
    domains = keys_of(entry["bpc"] for entry in phases)
    domains += ["mean"] if len(domains) > 1 else []
    relative = all(entry.get("ce_only") for entry in phases)
    height = 1.2 + 0.62 * len(phases)
    figure, panels = grid(len(domains), columns=3, size=(4.4, height), legend=True)
    for axes, domain in zip(panels, domains, strict=True):
        labels = []
        for row, entry in enumerate(phases):
            arms = _arms(entry, domain)
            zero = arms["ce_only"] if relative else None
            _comparison_row(axes, row, arms, zero, _rolled_back(entry))
            below = "" if zero is None else f"\nCE only {zero:.3f}"
            back = "\nrolled back" if _rolled_back(entry) else ""
            labels.append(entry["name"] + back + below)
        axes.set_yticks(range(len(phases)), labels)
        axes.set_ylim(len(phases) - 0.5, -0.65)
        axes.set_title("mean over domains" if domain == "mean" else domain, loc="left")
        axes.margins(x=0.22)
        axes.locator_params(axis="x", nbins=5)
        if relative:
            axes.axvline(0, color=ARM_COLOURS["ce_only"], linewidth=1.4, zorder=1)
            axes.set_xlabel("bits per character saved (right is better)", fontsize=9)
        else:
            axes.set_xlabel("held-out bits per character (left is better)", fontsize=9)
    _comparison_legend(figure)
    figure.suptitle(f"{run.name}: held-out text, each phase against CE only")
    return figure


def draw_coverage(run: RunDir) -> Figure | None:
    """Draw the share of student tokens each teacher reached, per phase."""
    shares: dict[str, dict[str, list[float]]] = {}
    for line in run.lines("train"):
        for teacher, share in line.get("coverage", {}).items():
            phase = shares.setdefault(str(line.get("phase")), {})
            phase.setdefault(teacher, []).append(share)
    if not shares:
        return None
    teachers = keys_of(shares.values())
    figure, (axes,) = grid(
        1, columns=1, size=(2.2 + 1.15 * len(teachers), 1.6 + 0.42 * len(shares))
    )
    for row, phase in enumerate(shares.values()):
        for column, teacher in enumerate(teachers):
            values = phase.get(teacher)
            if values:
                _cell(axes, column, row, sum(values) / len(values))
    axes.set_xticks(range(len(teachers)), teachers)
    axes.set_yticks(range(len(shares)), list(shares))
    axes.set_xlim(-0.5, len(teachers) - 0.5)
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("student tokens which teacher text reached", loc="left")
    return figure


def _arms(entry: Mapping[str, Any], domain: str) -> dict[str, float | None]:
    sources = {
        MAIN: entry.get("bpc"),
        "ce_only": entry.get("ce_only"),
        "best_single": (entry.get("best_single") or {}).get("bpc"),
    }
    return {
        arm: mean_bpc(bpc) if domain == "mean" else (bpc or {}).get(domain)
        for arm, bpc in sources.items()
    }


def _rolled_back(entry: Mapping[str, Any]) -> bool:
    return bool((entry.get("gate") or {}).get("rolled_back"))


def _comparison_row(
    axes: Axes,
    row: int,
    arms: Mapping[str, float | None],
    zero: float | None,
    hollow: bool,
) -> None:
    given = {arm: value for arm, value in arms.items() if value is not None}
    places = {
        arm: value if zero is None else zero - value for arm, value in given.items()
    }
    if not places:
        return
    ends = [min(places.values()), max(places.values())]
    axes.plot(ends, [row, row], color="#C8C8C8", zorder=1)
    for arm, place in places.items():
        # the best single teacher lies within the other where both are alike
        size, order = {MAIN: (70, 3), "best_single": (24, 4)}.get(arm, (42, 2))
        face = "white" if hollow and arm == MAIN else ARM_COLOURS[arm]
        axes.scatter(
            place, row, s=size, facecolor=face, edgecolor=ARM_COLOURS[arm], zorder=order
        )
    if MAIN in places:
        axes.annotate(
            f"{given[MAIN]:.3f}",
            (places[MAIN], row),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=ARM_COLOURS[MAIN],
        )


def _comparison_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    labels = {
        MAIN: "distilled, with its bits per character",
        "ce_only": "CE only, same data and steps",
        "best_single": "best single teacher",
    }
    dots = [
        Line2D([], [], marker="o", linestyle="", color=ARM_COLOURS[arm], label=label)
        for arm, label in labels.items()
    ]
    figure.legend(handles=dots, loc="outside lower center", ncols=3, frameon=False)


def _cell(axes: Axes, column: int, row: int, share: float) -> None:
    from matplotlib.patches import Rectangle

    colour = "#CFE8DD" if share >= 0.8 else "#FCE8B8" if share >= 0.5 else "#F6C6B6"
    axes.add_patch(
        Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, color=colour, linewidth=0)
    )
    axes.text(
        column, row, f"{share:.1%}", ha="center", va="center", fontsize=9, color=ON_PALE
    )


def _term(line: Mapping[str, Any], term: str) -> float | None:
    value = line.get("loss") if term == "loss" else line.get("terms", {}).get(term)
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None  # a NaN line leaves a gap
