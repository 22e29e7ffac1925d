"""What evaluators said: quality, size and speed side by side, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.evaluators.asked import Measurements, retention
from experiments.evaluators.chosen import USUAL
from experiments.record.run_dir import RunDir
from experiments.report.evaluation.tables import notes_of, shown, tables_of
from experiments.report.layout.document import Block, Items, Paragraph, Section, Table
from student.evaluators.agreement import Agreement
from student.evaluators.base import Metric, Values
from student.evaluators.cost import Cost
from student.evaluators.errors import Errors
from student.evaluators.size import Size

LOST, KINDS = "lost_by_kind", "bits_by_kind"
APART = {*Size.metrics, *Cost.metrics, *Errors.metrics, *Agreement.metrics}
"""Metrics of which nothing is kept: they are no quality of a model by itself."""
MOST = 6
"""Kinds of text that are named as those that lost most."""


def evaluation_sections(run: RunDir) -> list[Section]:
    """The comprehensive table; nothing of a run that measured bits alone, or of an
    earlier version."""
    measurements = measurements_of(run.summary)
    if measurements is None:
        return []
    said = "An arrow says whether lower or higher is better; a dash, that it was not \
measured."
    blocks: list[Block] = [
        Paragraph(said),
        *tables_of(measurements),
        *_kept(run.summary, measurements),
        *_lost(measurements),
    ]
    if measurements.notes:
        blocks.append(Items(notes_of(measurements)))
    return [
        Section(title="Quality, size and speed", blocks=blocks),
        *_written(run.summary),
    ]


def measurements_of(summary: Mapping[str, Any]) -> Measurements | None:
    """What a summary holds of evaluators; None where there is nothing but bits."""
    evaluation = summary.get("evaluation") or {}
    phase = _final(summary)
    if phase is None or not phase.get("metrics"):
        return None
    metrics = {
        name: Metric(m["unit"], m["better"])
        for name, m in evaluation.get("metrics", {}).items()
    }
    measurements = Measurements(metrics=metrics)
    measurements.models[f"student, {phase['name']}"] = _values(
        phase["metrics"], phase["bpc"]
    )
    if phase.get("ce_only_metrics"):
        bits = phase.get("ce_only") or {}
        measurements.models["CE only"] = _values(phase["ce_only_metrics"], bits)
    teachers = evaluation.get("teachers") or {}
    for name, values in teachers.get("models", {}).items():
        bits = summary.get("teachers", {}).get(name, {}).get("bpc") or {}
        measurements.models[name] = _values(values, bits)
    measurements.teachers = teachers.get("set", {})
    notes = [*phase.get("notes", []), *teachers.get("notes", [])]
    measurements.notes = list(dict.fromkeys(notes))
    return measurements


def _values(metrics: Values, bits: Mapping[str, float]) -> dict[str, dict[str, float]]:
    by_metric = {USUAL: dict(bits)} if bits else {}
    return by_metric | {name: dict(parts) for name, parts in metrics.items()}


def _final(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    phases = summary.get("phases") or []
    last = summary.get("final_phase")
    named = [phase for phase in phases if phase["name"] == last]
    return (named or phases or [None])[-1]


def _kept(summary: Mapping[str, Any], measurements: Measurements) -> list[Block]:
    """Retention against every teacher."""
    ours = next(iter(measurements.models.values()))
    teachers = [
        name for name in measurements.models if name in summary.get("teachers", {})
    ]
    shares = {
        name: retention(ours, measurements.models[name], measurements.metrics)
        for name in teachers
    }
    quality = [m for m in measurements.metrics if m not in APART]
    metrics = [m for m in quality if any(m in s for s in shares.values())]
    if not metrics:
        return []
    said = (
        "How much of a teacher's number the student keeps, in %, over 100 where it is "
        "better: its share where higher is better, the teacher's share of it where "
        "lower is."
    )
    rows = []
    for metric in metrics:
        rows.append([metric, *(shown(shares[name].get(metric)) for name in teachers)])
        rows += _kept_by_part(measurements, ours, teachers, metric)
    table = Table(title="retention, %", heads=["metric", *teachers], rows=rows)
    return [Paragraph(said), table]


def _kept_by_part(
    measurements: Measurements, ours: Values, teachers: Sequence[str], metric: str
) -> list[list[str]]:
    """A row for each part of a metric, such as a language pair, where there are several
    that some teacher has, too."""
    parts = list(ours.get(metric, {}))
    if len(parts) < 2:
        return []
    meaning = {metric: measurements.metrics[metric]}
    rows = []
    for part in parts:
        mine = {metric: {part: ours[metric][part]}}
        shares = [
            retention(mine, measurements.models[name], meaning).get(metric)
            for name in teachers
        ]
        if any(share is not None for share in shares):
            rows.append([f"{metric}, {part}", *map(shown, shares)])
    return rows


def _lost(measurements: Measurements) -> list[Block]:
    """Which kinds of text lost most against the teacher who reads them best, and
    against the student that learned without teachers."""
    against = {"the best teacher": _ours(measurements).get(LOST, {})}
    models = measurements.models
    bits = _ours(measurements).get(KINDS, {})
    alone = models.get("CE only", {}).get(KINDS, {})
    against["CE only"] = {
        kind: bits[kind] - alone[kind] for kind in bits if kind in alone
    }
    against = {name: lost for name, lost in against.items() if lost}
    blocks: list[Block] = []
    for name, lost in against.items():
        worst = sorted(lost.items(), key=lambda pair: -pair[1])[:MOST]
        rows = [
            [kind, shown(bits.get(kind)), f"{more:+.3f}", _share(more, bits.get(kind))]
            for kind, more in worst
        ]
        heads = ["kind of text", "bits/char", "more", "%"]
        title = f"where the student lost most against {name}"
        blocks.append(Table(title=title, heads=heads, rows=rows, numbers_from=1))
    if blocks:
        said = (
            "Bits per character that it needs more, by kind of text: domain, length, "
            "how rare its words are; less than nothing is gained. The best teacher is "
            "the one who reads that kind best."
        )
        blocks.insert(0, Paragraph(said))
    return blocks


def _ours(measurements: Measurements) -> Values:
    """Of the student that the report is about."""
    return next(iter(measurements.models.values()))


def _share(more: float, bits: float | None) -> str:
    """What is lost, of what the one it is held against needs."""
    before = None if bits is None else bits - more
    return shown(None) if not before else f"{100 * more / before:+.1f}"


def _written(summary: Mapping[str, Any]) -> list[Section]:
    """Some of what the generation evaluator read."""
    phase = _final(summary) or {}
    rows = [
        [s["domain"], s["prompt"], s["written"], s["reference"]]
        for s in phase.get("written", [])
    ]
    if not rows:
        return []
    heads = ["domain", "prompt", "written", "right"]
    table = Table(
        title="answers of the student", heads=heads, rows=rows, numbers_from=4
    )
    return [Section(title="What it answers", blocks=[table])]
