"""The report of a run: what was trained, what it was worth, and how to do it again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.support.whole_file import write_whole
from experiments.record.course import duration
from experiments.record.run_dir import MAIN, RunDir, mean_bpc
from experiments.record.students import auto_class
from experiments.record.versions import sentence
from experiments.report.arms import arm_table
from experiments.report.course import time_sections
from experiments.report.evaluation.asked import asked_blocks
from experiments.report.evaluation.exits import exit_sections
from experiments.report.evaluation.order import order_sections
from experiments.report.evaluation.sections import evaluation_sections
from experiments.report.gallery import Gallery, selection_sections
from experiments.report.layout.document import (
    Block,
    Code,
    Document,
    Figures,
    Items,
    Paragraph,
    Phrase,
    Section,
    Table,
    code,
)
from experiments.report.layout.markdown import markdown
from experiments.report.samples import sample_sections
from experiments.report.settings import changed_settings
from experiments.report.teachers import percent_more, teacher_sections
from experiments.report.verdicts import (
    Verdict,
    counted,
    sentences,
    table_rows,
    verdicts,
)
from experiments.report.written import written_sections

MOST_EVENTS = 20
"""Of alarms, and of other events; the rest is counted."""


def write_report(run: RunDir, draw: bool = True) -> Path:
    """Write ``report.md`` and ``report.html`` into the run's directory.

    Args:
        run: what was read of it.
        draw: make the pictures anew first.

    Returns:
        The path of ``report.md``.
    """
    from experiments.report.layout.html import html

    if draw:
        from experiments.report.figures import draw_run

        draw_run(run)
    path = run.path / "report.md"
    document = compose(run)
    write_whole(path, markdown(document))
    write_whole(path.with_suffix(".html"), html(document, run.figures))
    return path


def report_text(run: RunDir) -> str:
    """Compose the report as Markdown, from whatever the run has written so far."""
    return markdown(compose(run))


def compose(run: RunDir) -> Document:
    """Put what the run has written so far in a reader's order."""
    results = verdicts(run)
    gallery = Gallery(run)
    sections = [
        *_damage(run),
        *_events(run, "Alarms", alarms=True),
        *_worth(run, results, gallery),
        *evaluation_sections(run),
        *exit_sections(run, gallery),
        *sample_sections(run),
        *gallery.section(
            "How the losses went",
            *("losses", "balance", "schedules", "compared_layers", "health"),
        ),
        *selection_sections(run, gallery),
        *_asked(run, gallery),
        *teacher_sections(run),
        *order_sections(run),
        *gallery.section("When texts were read", "order"),
        *gallery.section(
            "How teachers meet the student",
            *("coverage", "alignment", "layer_map", "layer_similarity"),
        ),
        *gallery.rest("Other pictures"),
        *_events(run, "Noted on the way", alarms=False),
        *_settings(run),
        *time_sections(run),
        *written_sections(run),
        _again(run),
    ]
    return Document(
        title=run.name,
        lead=_lead(run, results),
        sections=sections,
        footer=_made_with(run.summary),
    )


def _lead(run: RunDir, results: list[Verdict]) -> list[Block]:
    if not results:
        steps = sum(1 for _ in run.lines("train"))
        none = f"The run is not finished: {steps} metric lines so far, no summary yet."
        return [Paragraph(none)]
    said = counted(results)
    back = [v.phase for v in results if v.rolled_back]
    if back:
        last = run.summary.get("final_phase")
        student = f"the one after {last}" if last else "the one it began with"
        said.append(
            f" Rolled back for doing harm: {', '.join(back)}; the run's student is "
            f"{student}."
        )
    seconds = run.summary.get("time_s")
    if seconds is not None:
        said.append(f" The run took {duration(seconds)}.")
    return [Paragraph(said), *_key_figures(run, results)]


def _key_figures(run: RunDir, results: list[Verdict]) -> list[Block]:
    """The student that the run gives, against the baselines of its phase."""
    last = run.summary.get("final_phase", results[-1].phase)
    final = next((v for v in results if v.phase == last), None)
    if final is None or final.mean is None:
        return []
    start = mean_bpc(run.summary.get("start")) or results[0].previous
    rows = [
        (
            "bits per character",
            f"{final.mean:.3f}",
            f"after {final.phase}" + (f", {start:.3f} at first" if start else ""),
        )
    ]
    if final.ce_only is not None:
        saved = percent_more(final.mean, final.ce_only)
        rows.append(("against CE only", saved, f"{final.ce_only:.3f}"))
    if final.best_single is not None and not final.alone:
        saved = percent_more(final.mean, final.best_single)
        beside = f"{final.best_single:.3f}"
        if final.single_teacher:
            beside += f", {final.single_teacher}"
        rows.append(("against the best single teacher", saved, beside))
    return [Figures(rows)]


def _worth(run: RunDir, results: list[Verdict], gallery: Gallery) -> list[Section]:
    if not results:
        return gallery.section("What each phase was worth", "comparison")
    heads, rows = table_rows(results)
    said = (
        "Held-out bits per character, lower is better. CE only is the same student "
        "on the same data and steps without teachers; best single learnt from the "
        "best one teacher alone. vs either: how many more bits the phase's student "
        "needs, less than nothing where it needs fewer; it helped where it needs "
        "fewer than both, or, where the gate decides by another metric, where it is "
        "better than both by that one."
    )
    blocks: list[Block] = [
        Paragraph(said),
        Table(title="phases against their baselines", heads=heads, rows=rows),
        Items(sentences(results)),
        *_gate_note(run),
        *_arms(run),
        *gallery.pictures("comparison"),
    ]
    return [Section(title="What each phase was worth", blocks=blocks)]


def _arms(run: RunDir) -> list[Block]:
    """Each baseline by itself, beside the teachers."""
    heads, rows = arm_table(run)
    if not rows:
        return []
    said = (
        "Every student of that phase, after the same data and steps, and what the "
        "teachers need themselves on the same text; an encoder foretells none."
    )
    title = "every student, and the teachers"
    return [Paragraph(said), Table(title=title, heads=heads, rows=rows)]


def _gate_note(run: RunDir) -> list[Block]:
    """Say on which text phases were rolled back, and that arms go on side by side."""
    gates = [entry.get("gate") for entry in run.summary["phases"]]
    if not any(gate and gate["rolled_back"] for gate in gates):
        return []
    text = (
        "held-out text of its own, which the table does not show: numbers differ"
        if all(gate["own_text"] for gate in gates if gate)
        else "the text of the table, whose numbers are hence a little too good"
    )
    said = (
        f"The gate decided on {text}. A phase that was rolled back counts in no arm: "
        "the next phase of each starts from the student before it."
    )
    return [Paragraph(said)]


def _damage(run: RunDir) -> list[Section]:
    """What this page has to leave out."""
    section = Section(title="Damage", blocks=[Items(run.faults)], warns=True)
    return [section] if run.faults else []


def _events(run: RunDir, title: str, alarms: bool) -> list[Section]:
    events = [
        line
        for line in run.metrics
        if line.get("kind") == "event" and ("alarm" in line) == alarms
    ]
    lines: list[Phrase] = []
    for line in events[:MOST_EVENTS]:
        arm = line.get("arm", MAIN)
        place = "" if arm == MAIN else f"arm {arm}, "
        place += f"phase {line.get('phase', '–')}, step {line.get('step', '–')}"
        said = line.get("message") or line.get("event") or "event"
        lines.append(f"{place}: {said}")
    if events[MOST_EVENTS:]:
        more = f"and {len(events) - MOST_EVENTS} more in "
        lines.append([more, code("metrics.jsonl")])
    section = Section(title=title, blocks=[Items(lines)], warns=alarms)
    return [section] if events else []


def _asked(run: RunDir, gallery: Gallery) -> list[Section]:
    """Who taught what, by weight or by choice; none where nothing tells."""
    blocks: list[Block] = [
        *asked_blocks(run),
        *gallery.pictures(
            *("asked", "routing_domains", "routing_kinds", "routing_text"),
            *("routing_layers", "gates"),
        ),
    ]
    return [Section(title="Which teacher was asked", blocks=blocks)] if blocks else []


def _settings(run: RunDir) -> list[Section]:
    rows = changed_settings(run)
    if not rows:
        return []
    table = Table(
        title="settings that differ from the defaults",
        heads=["setting", "value", "default"],
        rows=[[code(name), value, default] for name, value, default in rows],
        numbers_from=3,
    )
    said: Phrase = [
        "A phase's preset sets more: ",
        code("mtkd config show CONFIG --phase NAME"),
        " shows one whole.",
    ]
    blocks: list[Block] = [table, Paragraph(said)]
    return [Section(title="Settings that differ from the defaults", blocks=blocks)]


def _again(run: RunDir) -> Section:
    near = os.path.relpath(run.path)
    where = shlex.quote(str(run.path.resolve()) if near.startswith("..") else near)
    again = shlex.quote(f"{run.name}-again")
    commands = [
        (f"mtkd train {where}/config.yaml", "go on, if it was stopped"),
        (f"mtkd train {where}/config.yaml run.name={again}", "the same run anew"),
        (f"mtkd eval {where}", "measure its students"),
        (f"mtkd report {where}", "write this page anew"),
    ]
    width = max(len(command) for command, _ in commands)
    lines = [f"{command:<{width}}   # {what}" for command, what in commands]
    auto = auto_class(run.path / "student")
    load = (
        f"from transformers import {auto}, AutoTokenizer\n\n"
        f"student = {auto}.from_pretrained({_student(run, near)!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({_student(run, near)!r})"
    )
    blocks: list[Block] = [
        Code("\n".join(lines), "bash"),
        Paragraph("The student is a plain checkpoint of transformers:"),
        Code(load, "python"),
    ]
    return Section(title="Do it again, go on, or use it", blocks=blocks)


def _student(run: RunDir, near: str) -> str:
    return f"{run.path.resolve() if near.startswith('..') else near}/student"


def _made_with(summary: Mapping[str, Any]) -> list[Phrase]:
    """The end of a report; empty where the run did not say."""
    if not summary.get("versions"):
        return []
    said: list[Phrase] = [f"Made with {sentence(summary['versions'])}."]
    for key, whose in summary.get("plugins", {}).items():
        kind, _, name = key.partition(" ")
        release = (
            f" ({whose['distribution']} {whose['version']})"
            if whose["distribution"] != "-"
            else ""
        )
        digest = whose["digest"][:12] or "unknown"
        kind = kind.replace("_", " ")
        plugin = code(whose["plugin"])
        end = f"{release}, code {digest}."
        said.append([f"The {kind} ", code(name), " is of the plugin ", plugin, end])
    return said
