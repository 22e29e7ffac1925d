"""What it costs to leave early: the curve of heads at lower layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from experiments.record.run_dir import RunDir
from experiments.report.evaluation.sections import measurements_of
from experiments.report.gallery import Gallery
from experiments.report.layout.document import (
    Block,
    Items,
    Paragraph,
    Phrase,
    Section,
)
from experiments.report.plotting import COLOURS, grid
from student.evaluators.exits import NEVER, Exits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BITS, LAYERS = Exits.metrics
Curve = list[tuple[float, float, str]]
"""Layers used in %, bits per character, and at which threshold, least layers first."""


def curves_of(run: RunDir) -> dict[str, Curve]:
    """The curve of every student that has heads: the run's last phase, CE only."""
    measurements = measurements_of(run.summary)
    models = {} if measurements is None else measurements.models
    curves = {name: _curve(values) for name, values in models.items()}
    return {name: curve for name, curve in curves.items() if curve}


def exit_sections(run: RunDir, gallery: Gallery) -> list[Section]:
    """What each threshold saves and costs; none where nobody has heads."""
    said = (
        "Each token leaves at the first head whose likeliest next token has at least "
        "the threshold's probability. Layers are the mean share of them that a token "
        "goes through; only a program saves that work that leaves the others "
        "out, and the heads' own is not in it."
    )
    lines: list[Phrase] = [
        _sentence(name, point, dict((part, bits) for _, bits, part in curve).get(NEVER))
        for name, curve in curves_of(run).items()
        for point in curve
        if point[2] != NEVER
    ]
    if not lines:
        return []
    blocks: list[Block] = [Paragraph(said), Items(lines), *gallery.pictures("exits")]
    return [Section(title="Early exits", blocks=blocks)]


def draw_exits(run: RunDir) -> Figure | None:
    """Draw bits per character over the layers used; None without heads."""
    curves = curves_of(run)
    if not curves:
        return None
    figure, (axes,) = grid(1, columns=1, size=(6, 4))
    for number, (name, curve) in enumerate(curves.items()):
        shares, bits, parts = zip(*curve, strict=True)
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(shares, bits, "o-", color=colour, label=name)
        for share, cost, part in zip(shares, bits, parts, strict=True):
            axes.annotate(
                part, (share, cost), (4, 4), textcoords="offset points", fontsize=7
            )
    axes.set_xlabel("layers used, %", fontsize=8)
    axes.set_ylabel("bits per character", fontsize=8)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _curve(values: Mapping[str, Mapping[str, float]]) -> Curve:
    bits, layers = values.get(BITS, {}), values.get(LAYERS, {})
    return sorted((layers[part], bits[part], part) for part in bits if part in layers)


def _sentence(name: str, point: tuple[float, float, str], whole: float | None) -> str:
    layers, bits, part = point
    said = (
        f"{name}, {part}: {layers:.0f} % of the layers, {bits:.3f} bits per character"
    )
    if not whole:
        return f"{said}."
    more = 100 * (bits / whole - 1)
    word = "more" if more >= 0 else "fewer"
    return f"{said}, {abs(more):.1f} % {word} than through all ({whole:.3f})."
