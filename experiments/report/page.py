"""The report of a run: what was trained, what it was worth, and how to do it again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.record.course import duration
from experiments.record.run_dir import MAIN, RunDir, helped, mean_bpc
from experiments.record.versions import footer
from experiments.report.samples import sample_blocks
from experiments.report.teachers import (
    markdown_table,
    number,
    percent_more,
    teacher_blocks,
)
from experiments.run.gates import describe_harm

if TYPE_CHECKING:
    from rich.table import Table

CAPTIONS = {
    "comparison": "Bits per character of held-out text, each phase against the "
    "student that learnt from the same data and steps by next-token loss alone.",
    "losses": "Every term of the objective over the optimiser steps.",
    "routing_domains": "Mean routing weight of every teacher, by domain of the text.",
    "routing_layers": "Mean routing weight of every teacher, by student layer.",
    "gates": "How much of the fused keys and values each student layer lets in when "
    "the outcome is measured.",
    "health": "Spread and effective rank of the student's keys and values while it "
    "trains, as shares of what they were when the phase began.",
    "coverage": "Share of student tokens which received any teacher text.",
    "alignment": "How one sentence's student tokens meet a teacher's.",
    "layer_map": "Which teacher layers feed which student layer.",
    "layer_similarity": "How alike keys and values of teacher and student layers are "
    "on the calibration sample, and the layers chosen.",
}
"""What a picture shows, by the start of its file name; in the report's order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One phase against its baselines, in mean bits per character."""

    phase: str
    steps: int | None
    teachers: Sequence[str]
    bpc: Mapping[str, float]
    """Held-out bits per character by domain."""
    mean: float | None
    ce_only: float | None
    best_single: float | None
    single_teacher: str | None
    alone: bool
    """Whether that teacher is all that taught, so that both students are the same."""
    previous: float | None
    """Before the phase."""
    helped: bool | None
    """Whether it beat both baselines, as far as there are any; None without."""
    harm: str
    """What the gate says of it, see :func:`experiments.run.gates.describe_harm`."""
    harmed: Sequence[str]
    """The domains in which it hurt."""
    rolled_back: bool

    @property
    def outcome(self) -> str:
        """The one word of the table."""
        if self.rolled_back:
            return "rolled back"
        if self.harmed:
            return f"hurt {', '.join(self.harmed)}"
        return {True: "yes", False: "no", None: "–"}[self.helped]


def verdicts(run: RunDir) -> list[Verdict]:
    """Read each phase's outcome from the run's summary."""
    return [_verdict(entry) for entry in run.summary.get("phases", [])]


def sentences(found: Iterable[Verdict]) -> list[str]:
    """Say of every phase, plainly, whether it helped."""
    return [_sentence(verdict) for verdict in found]


def summary_table(run: RunDir) -> Table:
    """Lay the outcome out as a rich table."""
    from rich.table import Table
    from rich.text import Text

    found = verdicts(run)
    heads, rows = _rows(found)
    table = Table(
        title=f"{run.name}: held-out bits per character, lower is better",
        title_justify="left",
    )
    for index, head in enumerate(heads):
        narrow = 7 if head.startswith("vs ") else None  # room for -100.0%
        table.add_column(head, justify="right" if index else "left", max_width=narrow)
    for verdict, row in zip(found, rows, strict=True):
        style = {"yes": "green", "no": "yellow", "–": ""}.get(verdict.outcome, "red")
        cells = [Text(cell) for cell in row[:-1]]
        table.add_row(*cells, Text(row[-1], style=style))
    return table


def write_report(run: RunDir, draw: bool = True) -> Path:
    """Write ``report.md`` into the run's directory.

    Args:
        run: what was read of it.
        draw: make the pictures anew first.

    Returns:
        The report's path.
    """
    if draw:
        from experiments.report.figures import draw_run

        draw_run(run)
    path = run.path / "report.md"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(report_text(run), encoding="utf-8")
    part.replace(path)
    return path


def report_text(run: RunDir) -> str:
    """Compose the report as Markdown, from whatever the run has written so far."""
    found = verdicts(run)
    blocks = [f"# Run `{run.name}`", _lead(run, found)]
    if found:
        heads, rows = _rows(found)
        blocks += [
            "## What each phase was worth",
            "Held-out bits per character, lower is better. *CE only* is the same "
            "student on the same data and steps without teachers; *best single* "
            "learnt from the best one teacher alone. *vs* either: how many more bits "
            "the phase's student needs, less than nothing where it needs fewer; it "
            "*helped* where it needs fewer than both.",
            markdown_table(heads, rows),
            "\n".join(f"- {sentence}" for sentence in sentences(found)),
            *_gate_note(run),
        ]
    blocks += sample_blocks(run)
    blocks += teacher_blocks(run)
    blocks += _event_blocks(run)
    blocks += _picture_blocks(run)
    blocks += ["## Do it again", _commands(run)]
    blocks += footer(run.summary)
    return "\n\n".join(blocks) + "\n"


def _verdict(entry: Mapping[str, Any]) -> Verdict:
    single, gate = entry.get("best_single") or {}, entry.get("gate")
    ours, ce = mean_bpc(entry.get("bpc")), mean_bpc(entry.get("ce_only"))
    best = mean_bpc(single.get("bpc"))
    # Reckoned anew, as runs of earlier versions called it help to beat one of them.
    alone = best is not None and entry.get("beats_best_single", False) is None
    beats = _fewer(ours, ce), None if alone else _fewer(ours, best)
    return Verdict(
        phase=str(entry["name"]),
        steps=entry.get("steps"),
        teachers=list(entry.get("teachers") or ()),
        bpc=dict(entry.get("bpc") or {}),
        mean=ours,
        ce_only=ce,
        best_single=best,
        single_teacher=single.get("teacher"),
        alone=alone,
        previous=mean_bpc(entry.get("previous")),
        helped=helped(*beats),
        harm=describe_harm(gate) if gate else "",
        harmed=list(dict.fromkeys(h["domain"] for h in gate["harms"])) if gate else [],
        rolled_back=bool(gate and gate["rolled_back"]),
    )


def _fewer(ours: float | None, theirs: float | None) -> bool | None:
    return None if ours is None or theirs is None else ours < theirs


def _sentence(verdict: Verdict) -> str:
    name = f"**{verdict.phase}**"
    if verdict.mean is None:
        return f"{name} was not measured."
    harm = f" It hurt: {verdict.harm}." if verdict.harm else ""
    if verdict.helped is None and not verdict.rolled_back:
        return f"{name} has no baseline to compare with: {verdict.mean:.3f}.{harm}"
    parts = []
    if verdict.ce_only is not None:
        parts.append(_against(verdict.mean, verdict.ce_only, "CE only"))
    if verdict.best_single is not None:
        single = f"{verdict.single_teacher or 'the best single teacher'} alone"
        parts.append(_against(verdict.mean, verdict.best_single, single))
    if verdict.previous is not None:
        parts.append(_against(verdict.mean, verdict.previous, "before the phase"))
    word = "helped" if verdict.helped else "did not help"
    if not verdict.helped and _fewer(verdict.mean, verdict.ce_only):
        word = "beat CE only, but not the best single teacher"
    word = "was rolled back" if verdict.rolled_back else word
    said = f"{name} {word}: {verdict.mean:.3f} bits per character, {', '.join(parts)}."
    return said + harm


def _against(ours: float, other: float, name: str) -> str:
    saved = other - ours
    if abs(saved) < 5e-4:
        return f"the same as {name}"
    word = "less" if saved > 0 else "more"
    return f"{abs(saved):.3f} {word} than {name} ({other:.3f})"


def _rows(found: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    domains = list(dict.fromkeys(domain for v in found for domain in v.bpc))
    several = ["mean"] if len(domains) > 1 else []
    heads = ["phase", "steps", *domains, *several]
    heads += ["CE only", "best single", "before"]
    heads += ["vs CE only", "vs best single", "helped"]
    rows = []
    for v in found:
        means = [number(v.mean)] if several else []
        single = number(v.best_single)
        if v.single_teacher and v.best_single is not None:
            single += f" ({v.single_teacher})"
        rows.append(
            [
                v.phase,
                "–" if v.steps is None else str(v.steps),
                *(number(v.bpc.get(domain)) for domain in domains),
                *means,
                number(v.ce_only),
                single,
                number(v.previous),
                percent_more(v.mean, v.ce_only),
                percent_more(v.mean, None if v.alone else v.best_single),
                v.outcome,
            ]
        )
    return heads, rows


def _lead(run: RunDir, found: Sequence[Verdict]) -> str:
    if not found:
        steps = sum(1 for _ in run.lines("train"))
        return f"The run is not finished: {steps} metric lines so far, no summary yet."
    said = _counted(found)
    back = [v.phase for v in found if v.rolled_back]
    if back:
        last = run.summary.get("final_phase")
        student = f"the one after {last}" if last else "the one it began with"
        said += (
            f" Rolled back for doing harm: {', '.join(back)}; the run's student is "
            f"{student}."
        )
    seconds = run.summary.get("time_s")
    return said if seconds is None else f"{said} The run took {duration(seconds)}."


def _counted(found: Sequence[Verdict]) -> str:
    """How many phases helped, and which of the others did not or hurt."""
    compared = [v for v in found if v.helped is not None or v.harmed or v.rolled_back]
    if not compared:
        return (
            "Not compared: the run has trained no baseline (`baselines.ce_only`, "
            "`baselines.single_teachers`)."
        )
    good = [v.phase for v in found if v.outcome == "yes"]
    bad = [v.phase for v in found if v.outcome == "no"]
    hurt = [v.phase for v in found if v.outcome.startswith("hurt")]
    parts = [f"{len(good)} of {len(compared)} phases helped"]
    if bad:
        parts.append(f"these did not: {', '.join(bad)}")
    if hurt:
        parts.append(f"these hurt in a domain: {', '.join(hurt)}")
    if len(compared) < len(found):
        parts.append(f"{len(found) - len(compared)} had nothing to compare with")
    return "; ".join(parts) + "."


def _gate_note(run: RunDir) -> list[str]:
    """Say on which text phases were rolled back, and that arms go on side by side."""
    gates = [entry.get("gate") for entry in run.summary["phases"]]
    if not any(gate and gate["rolled_back"] for gate in gates):
        return []
    text = (
        "held-out text of its own, which the table does not show: numbers differ"
        if all(gate["own_text"] for gate in gates if gate)
        else "the text of the table, whose numbers are hence a little too good"
    )
    return [
        f"The gate decided on {text}. A phase that was rolled back counts in no arm: "
        "the next phase of each starts from the student before it."
    ]


def _event_blocks(run: RunDir) -> list[str]:
    events = [line for line in run.metrics if line.get("kind") == "event"]
    alarms = [line for line in events if "alarm" in line]
    notes = [line for line in events if "alarm" not in line]
    return _listed("## Alarms", alarms) + _listed("## Noted on the way", notes)


def _listed(title: str, events: Sequence[Mapping[str, Any]]) -> list[str]:
    if not events:
        return []
    rows = []
    for line in events[:20]:
        arm = line.get("arm", MAIN)
        place = "" if arm == MAIN else f"arm {arm}, "
        place += f"phase {line.get('phase', '–')}, step {line.get('step', '–')}"
        said = line.get("message") or line.get("event") or "event"
        rows.append(f"- {place}: {said}")
    if events[20:]:
        rows.append(f"- and {len(events) - 20} more in `metrics.jsonl`")
    return [title, "\n".join(rows)]


def _picture_blocks(run: RunDir) -> list[str]:
    def place(path: Path) -> tuple[int, str]:
        starts = [i for i, key in enumerate(CAPTIONS) if path.stem.startswith(key)]
        return (starts[0] if starts else len(CAPTIONS), path.name)

    blocks = []
    for path in sorted(run.figures.glob("*.png"), key=place):
        blocks += [f"![{path.stem}](figures/{path.name})", _caption(path.stem)]
    return ["## Pictures", *blocks] if blocks else []


def _caption(stem: str) -> str:
    for key, text in CAPTIONS.items():
        if stem.startswith(key):
            rest = stem.removeprefix(key).strip("_")
            return f"{text} Here: {rest}." if rest else text
    return stem.replace("_", " ")


def _commands(run: RunDir) -> str:
    near = os.path.relpath(run.path)
    where = _shell(str(run.path.resolve()) if near.startswith("..") else near)
    again = _shell(f"{run.name}-again")
    lines = [
        f"mtkd train {where}/config.yaml run.name={again}   # the same run anew",
        f"mtkd eval {where}                                 # measure its students",
        f"mtkd report {where}                               # write this page anew",
        'python -c "from transformers import AutoModelForCausalLM as M; '
        f"print(M.from_pretrained('{where}/student'))\"",
    ]
    return "```bash\n" + "\n".join(lines) + "\n```"


def _shell(text: str) -> str:
    import shlex

    return shlex.quote(text)
