"""What each phase was worth, against its baselines, in numbers and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.foreign.quote import visible
from experiments.evaluators.chosen import USUAL
from experiments.record.run_dir import RunDir, helped, mean_bpc
from experiments.report.layout.document import Kind, Mark, Phrase, code, plain, strong
from experiments.report.teachers import number, percent_more
from experiments.run.gates import describe_harm

if TYPE_CHECKING:
    from rich.table import Table

COLOURS: dict[Kind, str] = {"good": "green", "poor": "yellow", "bad": "red"}
"""Of an outcome on a console."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One phase against its baselines, in mean bits per character.

    Whether it helped is by the gate's metric, where that is another.
    """

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
    by: str
    """How it did by the gate's metric, where that is another; empty by bits."""
    metric: str
    """By which it helped."""
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


def sentences(results: Iterable[Verdict]) -> list[Phrase]:
    """Say of every phase, plainly, whether it helped."""
    return [_sentence(verdict) for verdict in results]


SPARED = ("before", "steps", "best single", "CE only")
"""Columns that a table does without first where there is no room for all; the
sentences under it have them."""


def summary_table(run: RunDir, room: int | None = None) -> Table:
    """Lay the outcome out as a rich table.

    Args:
        run: whose.
        room: characters of a line; where they do not suffice, the columns of
            :data:`SPARED` and then those of single domains are left out, one by one, so
            that numbers stay whole. None: no end.
    """
    heads, rows = table_rows(verdicts(run))
    table, left_out = _laid_out(run, heads, rows), list[str]()
    domains = heads[2 : heads.index("mean")] if "mean" in heads else []
    for name in (*SPARED, *reversed(domains)):
        if room is None or _width(table) <= room:
            break
        place = heads.index(name)
        heads = [*heads[:place], *heads[place + 1 :]]
        rows = [[*row[:place], *row[place + 1 :]] for row in rows]
        left_out.append(visible(name))
        table = _laid_out(run, heads, rows)
        table.caption = f"for want of room without {', '.join(left_out)}"
        table.caption_justify = "left"
    return table


def _width(table: Table) -> int:
    """Characters of a line that a table needs, its last column broken at blanks."""
    from rich.console import Console

    wide = Console(width=10_000)
    cells = [*table.columns[-1].cells]
    longest = max((len(str(cell)) for cell in cells), default=0)
    words = [len(word) for cell in cells for word in str(cell).split()]
    return wide.measure(table).maximum - longest + max(words, default=0)


def _laid_out(run: RunDir, heads: list[str], rows: list[list[str | Mark]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=visible(f"{run.name}: held-out bits per character, lower is better"),
        title_justify="left",
    )
    for index, head in enumerate(heads):
        narrow = 7 if head.startswith("vs ") else None  # room for -100.0%
        table.add_column(
            visible(head),
            justify="right" if index else "left",
            max_width=narrow,
            no_wrap=narrow is None and index + 1 < len(heads),
        )
    for row in rows:
        *cells, outcome = row
        style = COLOURS[outcome.kind] if isinstance(outcome, Mark) else ""
        table.add_row(
            *(Text(visible(plain(cell))) for cell in cells),
            Text(plain(outcome), style=style),
        )
    return table


def table_rows(results: Sequence[Verdict]) -> tuple[list[str], list[list[str | Mark]]]:
    """Heads and rows of the table of phases; the last cell of a row is its outcome."""
    domains = list(dict.fromkeys(domain for v in results for domain in v.bpc))
    several = ["mean"] if len(domains) > 1 else []
    heads = ["phase", "steps", *domains, *several]
    heads += ["CE only", "best single", "before"]
    by = next((f" by {v.metric}" for v in results if v.by), "")
    heads += ["vs CE only", "vs best single", f"helped{by}"]
    rows: list[list[str | Mark]] = []
    for v in results:
        means = [number(v.mean)] if several else []
        single, tone = number(v.best_single), _tone(v.outcome)
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
                Mark(tone, v.outcome) if tone else v.outcome,
            ]
        )
    return heads, rows


def counted(results: Sequence[Verdict]) -> list[str | Mark]:
    """How many phases helped, and which of the others did not or hurt."""
    compared = [v for v in results if v.helped is not None or v.harmed or v.rolled_back]
    if not compared:
        return [
            "Not compared: the run has trained no baseline (",
            code("baselines.ce_only"),
            ", ",
            code("baselines.single_teachers"),
            ").",
        ]
    good = [v.phase for v in results if v.outcome == "yes"]
    bad = [v.phase for v in results if v.outcome == "no"]
    hurt = [v.phase for v in results if v.outcome.startswith("hurt")]
    parts = [f"{len(good)} of {len(compared)} phases helped"]
    if bad:
        parts.append(f"these did not: {', '.join(bad)}")
    if hurt:
        parts.append(f"these hurt in a domain: {', '.join(hurt)}")
    if len(compared) < len(results):
        parts.append(f"{len(results) - len(compared)} had nothing to compare with")
    return ["; ".join(parts) + "."]


def _verdict(entry: Mapping[str, Any]) -> Verdict:
    single, gate = entry.get("best_single") or {}, entry.get("gate")
    ours, ce = mean_bpc(entry.get("bpc")), mean_bpc(entry.get("ce_only"))
    best = mean_bpc(single.get("bpc"))
    # Reckoned anew, as runs of earlier versions called it help to beat one of them.
    alone = best is not None and entry.get("beats_best_single", False) is None
    by = entry.get("by")
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
        helped=entry["helped"] if by else helped(*beats),
        by=_by_metric(by) if by else "",
        metric=by["metric"] if by else USUAL,
        harm=describe_harm(gate) if gate else "",
        harmed=list(dict.fromkeys(h["domain"] for h in gate["harms"])) if gate else [],
        rolled_back=bool(gate and gate["rolled_back"]),
    )


def _by_metric(by: Mapping[str, Any]) -> str:
    """A phase's student by the gate's metric, beside its baselines."""
    if by["value"] is None:
        return f"{by['metric']} was not measured"
    others = []
    if by["ce_only"] is not None:
        others.append(f"{number(by['ce_only'])} of CE only")
    if by["best_single"] is not None:
        others.append(f"{number(by['best_single'])} of {by['single_teacher']} alone")
    against = f" against {' and '.join(others)}" if others else ""
    return f"{by['metric']} {number(by['value'])}{against}, {by['better']} is better"


def _fewer(ours: float | None, theirs: float | None) -> bool | None:
    return None if ours is None or theirs is None else ours < theirs


def _tone(outcome: str) -> Kind | None:
    """Good where it helped, bad where it hurt."""
    known: dict[str, Kind | None] = {"yes": "good", "no": "poor", "–": None}
    return known.get(outcome, "bad")


def _sentence(verdict: Verdict) -> Phrase:
    name = strong(verdict.phase)
    if verdict.mean is None:
        return [name, " was not measured."]
    harm = f" It hurt: {verdict.harm}." if verdict.harm else ""
    if verdict.helped is None and not verdict.rolled_back:
        by, unit = f" by {verdict.metric}", " bits per character"
        if not verdict.by:
            by, unit = "", ""
        bits = f"{verdict.mean:.3f}{unit}"
        return [name, f" has no baseline to compare with{by}: {bits}.{harm}"]
    parts = []
    if verdict.ce_only is not None:
        parts.append(_against(verdict.mean, verdict.ce_only, "CE only"))
    if verdict.best_single is not None:
        single = f"{verdict.single_teacher or 'the best single teacher'} alone"
        parts.append(_against(verdict.mean, verdict.best_single, single))
    if verdict.previous is not None:
        parts.append(_against(verdict.mean, verdict.previous, "before the phase"))
    word = "helped" if verdict.helped else "did not help"
    bits_decide = not verdict.by
    if bits_decide and not verdict.helped and _fewer(verdict.mean, verdict.ce_only):
        word = "beat CE only, but not the best single teacher"
    word = "was rolled back" if verdict.rolled_back else word
    bits = f"{verdict.mean:.3f} bits per character, {', '.join(parts)}."
    by = f" by {verdict.by};" if verdict.by else ":"
    return [name, f" {word}{by} {bits}{harm}"]


def _against(ours: float, other: float, name: str) -> str:
    saved = other - ours
    if abs(saved) < 5e-4:
        return f"the same as {name}"
    word = "less" if saved > 0 else "more"
    return f"{abs(saved):.3f} {word} than {name} ({other:.3f})"
