"""The pictures of a run, each with its sentence and its place in the report."""

from __future__ import annotations

from experiments.record.run_dir import RunDir
from experiments.report.layout.document import Picture, Section

CAPTIONS = {
    "comparison": "Bits per character of held-out text, each phase against the "
    "student that learnt from the same data and steps by next-token loss alone.",
    "losses": "Every term of the objective over the optimiser steps.",
    "balance": "What every term of the objective was multiplied with, as the balancer "
    "of the phase had it.",
    "schedules": "Every setting that moved by a schedule, over the optimiser steps.",
    "compared_layers": "Which student layers each term compared, where its settings "
    "alone do not say so, and how much each counted: the brighter, the more.",
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
