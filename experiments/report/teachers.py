"""What a report says of the teachers: how they read, and what of them arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.record.run_dir import RunDir
from experiments.report.layout.document import (
    Block,
    Items,
    Mark,
    Paragraph,
    Section,
    Table,
    code,
)
from experiments.routing_room.words import room_rows, room_sentences


def teacher_sections(run: RunDir) -> list[Section]:
    """The report's sections on teachers, from the run's summary."""
    every = (_teachers, _peers, _room, _ledger, _kept)
    return [section for part in every for section in part(run)]


def number(value: float | None) -> str:
    """Three decimals; a dash for nothing."""
    return "–" if value is None else f"{value:.3f}"


def percent_more(ours: float | None, other: float | None) -> str:
    """How much more the first is than the second, with its sign unless it rounds to
    none; a dash for nothing."""
    if ours is None or other is None:
        return "–"
    more = f"{ours / other - 1:+.1%}"
    return more if more.strip("+-") != "0.0%" else "0.0%"


def _teachers(run: RunDir) -> list[Section]:
    teachers = run.summary.get("teachers") or {}
    if not teachers:
        return []
    domains = list(
        dict.fromkeys(d for t in teachers.values() for d in (t.get("bpc") or {}))
    )
    rows = [
        [
            name,
            *(str(facts.get(key, "–")) for key in ("model", "kind", "family")),
            *(number((facts.get("bpc") or {}).get(domain)) for domain in domains),
        ]
        for name, facts in teachers.items()
    ]
    blocks: list[Block] = []
    if domains:
        blocks.append(Paragraph("Their own bits per character; an encoder has none."))
    heads = ["teacher", "model", "kind", "family", *domains]
    blocks.append(Table(title="teachers", heads=heads, rows=rows, numbers_from=4))
    lines = [
        f"{name} reaches {reading['coverage']:.1%} of the student's tokens; "
        f"{reading['lost']}"
        for name, facts in teachers.items()
        if (reading := facts.get("reading"))
    ]
    if lines:
        said = Paragraph("What their tokenizers make of the texts:")
        blocks += [said, Items(lines)]
    return [Section(title="Teachers", blocks=blocks)]


def _peers(run: RunDir) -> list[Section]:
    """Students that learned beside the run's own."""
    rows = [
        [name, phase["name"], *(number(bits) for bits in measured["bpc"].values())]
        for phase in run.summary.get("phases", [])
        for name, measured in (phase.get("peers") or {}).items()
    ]
    if not rows:
        return []
    phases = run.summary["phases"]
    domains = list(next(phase for phase in phases if phase.get("peers"))["bpc"])
    said: list[str | Mark] = [
        "Students that learned beside the run's own and taught it, after each phase: "
        "held-out bits per character. Each is a plain checkpoint in the phase's ",
        code("peers"),
        ".",
    ]
    heads = ["peer", "phase", *domains]
    table = Table(title="peers after each phase", heads=heads, rows=rows)
    return [Section(title="Peers", blocks=[Paragraph(said), table])]


def _room(run: RunDir) -> list[Section]:
    """What routing could gain, before anything was trained."""
    plain = run.summary.get("routing_room")
    if not plain:
        return []
    heads, rows = room_rows(plain)
    said = (
        "Bits per character of held-out stretches of text that all of these teachers "
        "begin and end with whole tokens. A mixture foretells a stretch with the "
        "weighted sum of their probabilities of it."
    )
    table = Table(title="what routing could gain", heads=heads, rows=rows)
    blocks: list[Block] = [Paragraph(said), table, Items(room_sentences(plain))]
    return [Section(title="What a router could gain", blocks=blocks)]


def _ledger(run: RunDir) -> list[Section]:
    """What each teacher was worth, by domain."""
    account = run.summary.get("ledger") or {}
    rows = []
    for name, entry in account.items():
        for domain, share in entry["share"].items():
            alone, without, loses = (
                (entry[key] or {}).get(domain) for key in ("bpc", "without", "loses")
            )
            lost = "–" if loses is None else f"{loses:+.3f}"
            cells = [number(alone), number(without), lost]
            reach = f"{entry['coverage']:.1%}"
            rows.append([name, domain, entry["phase"], f"{share:.1%}", reach, *cells])
    if not rows:
        return []
    heads = ["teacher", "domain", "phase", "share", "coverage", "its own"]
    said: list[str | Mark] = [
        "Each teacher's share of the routing weight and of the student's tokens in the "
        "last phase it taught that was kept, and its own bits per character; then the "
        "final student's without this teacher, and how many more these are (less than "
        "nothing: it did harm)."
    ]
    if all(entry["loses"] is None for entry in account.values()):
        setting = code("baselines.leave_one_out=all")
        said += [" ", setting, " trains the arms that tell the last two."]
    table = Table(
        title="worth of each teacher",
        heads=[*heads, "without it", "lost"],
        rows=rows,
        numbers_from=3,
    )
    blocks: list[Block] = [Paragraph(said), table, *_missed(run, account)]
    return [Section(title="What each teacher was worth", blocks=blocks)]


def _missed(run: RunDir, account: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """By every other metric, how the final student's number moves without a teacher."""
    meanings = (run.summary.get("evaluation") or {}).get("metrics") or {}
    rows = [
        [name, metric, meanings[metric]["better"], part, f"{more:+.3f}"]
        for name, entry in account.items()
        for metric, parts in (entry.get("more") or {}).items()
        if meanings.get(metric, {}).get("better") in ("lower", "higher")
        for part, more in parts.items()
    ]
    if not rows:
        return []
    heads = ["teacher", "metric", "better", "part", "more without it"]
    title = "worth of each teacher by every metric"
    return [Table(title=title, heads=heads, rows=rows, numbers_from=4)]


def _kept(run: RunDir) -> list[Section]:
    """What each teacher's adapter lets through, by phase and student layer."""
    rows = []
    for phase in run.summary.get("phases", []):
        for teacher, fit in (phase.get("fit") or {}).items():
            shares = [
                fit.get(f"{part}_variance_kept") or fit.get(f"variance_{part}")
                for part in ("k", "v")
            ]
            if None in shares:
                continue
            coverage = (phase.get("coverage") or {}).get(teacher)
            cells = [f"{k:.0%} / {v:.0%}" for k, v in zip(*shares, strict=True)]
            covered = "–" if coverage is None else f"{coverage:.1%}"
            rows.append([phase["name"], teacher, covered, *cells])
    if not rows:
        return []
    depth = max(len(row) for row in rows) - 3
    heads = ["phase", "teacher", "coverage", *(f"layer {i}" for i in range(depth))]
    said = (
        "Share of the teacher's variance, keys / values, that can be read back from "
        "what the calibrated adapter (or the coder to Z) makes of it, by student "
        "layer; and the share of the student's tokens that the teacher covered on the "
        "calibration sample."
    )
    table = Table(
        title="variance kept by the adapters", heads=heads, rows=rows, numbers_from=2
    )
    blocks: list[Block] = [Paragraph(said), table]
    return [Section(title="What the adapters let through", blocks=blocks)]
