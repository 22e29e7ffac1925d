"""What evaluators said, as tables that fit a screen and as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from experiments.evaluators.asked import Measurements
from experiments.report.layout.document import Table
from student.evaluators.base import WHOLE, Metric

SIDE_BY_SIDE = 4
"""Models that stand beside each other in one table; more stand below each other."""
WIDEST = 8
"""Columns of numbers in a table whose rows are models."""


@dataclass(frozen=True, slots=True)
class _Column:
    """One number of every model."""

    metric: str
    part: str

    @property
    def group(self) -> str:
        """What must not be torn apart: a domain with its kinds of text."""
        return self.part.split(", ")[0]


Models = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By model, metric and part."""


def tables_of(measurements: Measurements) -> list[Table]:
    """All numbers of all models.

    A few models stand side by side, a metric's part in each row. Of many, each has a
    row, and a table holds the parts of one metric, or the metrics that have but one
    number.
    """
    metrics, models = measurements.metrics, dict(measurements.models)
    if measurements.teachers:
        models["teachers"] = measurements.teachers
    if len(models) <= SIDE_BY_SIDE:
        return [_side_by_side(metrics, models)]
    whole, tables = [], []
    for name in metrics:
        parts = _parts(name, models)
        if parts == [WHOLE]:
            whole.append(_Column(name, WHOLE))
            continue
        columns = [_Column(name, part) for part in parts]
        for piece in _pieces(columns):
            heads = ["all" if c.part == WHOLE else c.part for c in piece]
            title = _with_unit(name, metrics[name])
            tables.append(_below_each_other(title, heads, piece, models))
    for piece in _pieces(whole):
        heads = [_with_unit(c.metric, metrics[c.metric]) for c in piece]
        tables.insert(0, _below_each_other("one number each", heads, piece, models))
    return tables


def notes_of(measurements: Measurements) -> list[str]:
    """What was not measured; one sentence for models of which the same is to say."""
    alike: dict[str, list[str]] = {}
    for note in measurements.notes:
        subjects = (n for n in measurements.models if note.startswith(f"{n}: "))
        subject = next(subjects, None)
        if subject is None:
            alike.setdefault(note, [])
        else:
            alike.setdefault(note.removeprefix(f"{subject}: "), []).append(subject)
    return [
        f"{', '.join(subjects)}: {said}" if subjects else said
        for said, subjects in alike.items()
    ]


def shown(number: float | None) -> str:
    """A number in four digits or so; a dash for none."""
    if number is None:
        return "–"
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    if 0 < abs(number) < 0.1:
        return f"{number:.3g}"
    return f"{number:.3f}" if abs(number) < 100 else f"{number:.1f}"


def _side_by_side(metrics: Mapping[str, Metric], models: Models) -> Table:
    rows = []
    for name, metric in metrics.items():
        for place, part in enumerate(_parts(name, models)):
            first = "" if place else f"{name}{_arrow(metric)}"
            cells = [
                shown(values.get(name, {}).get(part)) for values in models.values()
            ]
            rows.append([first, "" if part == WHOLE else part, metric.unit, *cells])
    heads = ["metric", "part", "unit", *models]
    return Table(title="every metric", heads=heads, rows=rows, numbers_from=3)


def _below_each_other(
    title: str, heads: Sequence[str], columns: Sequence[_Column], models: Models
) -> Table:
    """Models that have none of the numbers are left out."""
    rows = []
    for model, values in models.items():
        numbers = [values.get(c.metric, {}).get(c.part) for c in columns]
        if any(number is not None for number in numbers):
            rows.append([model, *map(shown, numbers)])
    return Table(title=title, heads=["model", *heads], rows=rows)


def _pieces(columns: Sequence[_Column]) -> Iterator[list[_Column]]:
    """Columns of a table each; groups stay whole where they are narrow enough."""
    piece: list[_Column] = []
    for _, group in groupby(columns, key=lambda column: column.group):
        together = list(group)
        if piece and len(piece) + len(together) > WIDEST:
            yield piece
            piece = []
        piece += together
        while len(piece) > WIDEST:
            yield piece[:WIDEST]
            piece = piece[WIDEST:]
    if piece:
        yield piece


def _parts(metric: str, models: Models) -> list[str]:
    """Of a metric, in the order in which models have them."""
    parts = (p for values in models.values() for p in values.get(metric, {}))
    return list(dict.fromkeys(parts))


def _arrow(metric: Metric) -> str:
    return {"lower": " ↓", "higher": " ↑", "neither": ""}[metric.better]


def _with_unit(name: str, metric: Metric) -> str:
    return f"{name}{_arrow(metric)}" + (f", {metric.unit}" if metric.unit else "")
