"""The pictures of a run, each with its sentence and its place in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.foreign.quote import visible
from experiments.record.run_dir import RunDir
from experiments.report.layout.document import (
    Block,
    Mark,
    Paragraph,
    Picture,
    Section,
    Table,
    strong,
)

CAPTIONS = {
    "comparison": "Bits per character of held-out text, each phase against the "
    "student that learnt from the same data and steps by next-token loss alone.",
    "losses": "Every term of the objective over the optimiser steps.",
    "balance": "What every term of the objective was multiplied with, as the balancer "
    "of the phase had it.",
    "selection": "By what each selector multiplied places, the mean by domain, and the "
    "share of places that it left anything of.",
    "schedules": "Every setting that moved by a schedule, over the optimiser steps.",
    "compared_layers": "Which student layers each term compared, where its settings "
    "alone do not say so, and how much each counted: the brighter, the more.",
    "asked": "Share of the texts that each teacher was asked about, and teachers' "
    "seconds beside what they would have been had all been asked.",
    "routing_domains": "Mean routing weight of every teacher, by domain of the text.",
    "routing_kinds": "Mean routing weight of every teacher, by what a token holds: a "
    "letter that begins a word or goes on with one, a digit, another sign, blanks.",
    "routing_text": "Texts as they were learned from last, each token in the colour of "
    "the teacher that led, the paler the less it weighed.",
    "routing_layers": "Mean routing weight of every teacher, by student layer.",
    "gates": "How much of the fused keys and values each student layer lets in when "
    "the outcome is measured.",
    "health": "Spread and effective rank of the student's keys and values while it "
    "trains, as shares of what they were when the phase began.",
    "order": "What a curriculum had read along a phase: shares of fifths of the texts "
    "by difficulty, from easy to hard, and of domains.",
    "exits": "Bits per character over the share of the layers that a token goes "
    "through, where it leaves at the first head that is sure enough.",
    "coverage": "Share of student tokens which received any teacher text.",
    "alignment": "How one sentence's student tokens meet a teacher's.",
    "layer_map": "Which teacher layers feed which student layer.",
    "layer_similarity": "How alike keys and values of teacher and student layers are "
    "on the calibration sample, and the layers chosen.",
}
"""What a picture shows, by the start of its file name."""


class Gallery:
    """The files of ``figures``, given out one by one."""

    def __init__(self, run: RunDir) -> None:
        """Look at what lies there."""
        self._left = sorted(path.stem for path in run.figures.glob("*.png"))

    def pictures(self, *kinds: str) -> list[Picture]:
        """Those whose names begin so, kind after kind."""
        taken = [s for kind in kinds for s in self._left if s.startswith(kind)]
        self._left = [stem for stem in self._left if stem not in taken]
        return [Picture(stem, _caption(stem)) for stem in taken]

    def section(self, title: str, *kinds: str) -> list[Section]:
        """A section of them; none where there is no picture."""
        pictures = self.pictures(*kinds)
        return [Section(title=title, blocks=pictures)] if pictures else []

    def rest(self, title: str) -> list[Section]:
        """A section of what has not been given out."""
        return self.section(title, "")


def _caption(stem: str) -> str:
    for key, text in CAPTIONS.items():
        if stem.startswith(key):
            rest = stem.removeprefix(key).strip("_")
            return f"{text} Here: {rest}." if rest else text
    return stem.replace("_", " ")


def selection_sections(run: RunDir, gallery: Gallery) -> list[Section]:
    """The report's section on what selectors kept; none where none selected."""
    lines = list(run.lines("selection"))
    if not lines:
        return []
    last = {str(line.get("phase")): line for line in lines}
    rows = [
        [phase, name, f"{each['kept']:.1%}", _shares(each["domains"]), _shares(kinds)]
        for phase, line in last.items()
        for name, each in line["selectors"].items()
        for kinds in [each["kinds"]]
    ]
    table = Table(
        title="what selectors kept in the last logged step of each phase",
        heads=["phase", "selector", "places kept", "mean weight by domain", "by kind"],
        rows=rows,
        numbers_from=2,
    )
    said = (
        "Of the places where teachers had something to say, on the first process; a "
        "weight of 1 is as without a selector. Kinds of tokens are those of the last "
        "pass: the beginning of a word, a piece within one, numbers, marks, blanks."
    )
    blocks: list[Block] = [Paragraph(said), table]
    blocks += [
        Paragraph(_example(phase, line["example"], name))
        for phase, line in last.items()
        for name in line["example"].get("weights", {})
    ]
    blocks += gallery.pictures("selection")
    return [Section(title="What selection left out", blocks=blocks)]


def _shares(means: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())


def _example(phase: str, example: Mapping[str, Any], name: str) -> list[str | Mark]:
    """A text whose kept tokens stand out: where the student has read them, it learns
    there more than nothing."""
    said: list[str | Mark] = [f"{phase}, {name}, what is kept in {example['text']}: "]
    weights = example["weights"][name]
    for piece, weight in zip(example["pieces"], weights, strict=True):
        shown = visible(piece)
        if weight is None or weight == 0:
            said.append(shown)
        else:
            blank = len(shown) - len(shown.lstrip())
            said += [shown[:blank], strong(shown[blank:])] if shown.strip() else [shown]
    return said
