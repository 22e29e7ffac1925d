"""How each teacher reads the run's texts: what it covers, and what it cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.across.tokens import aligned
from align.foreign.quote import say
from align.text.documents import TextSample
from align.tokens.lost_text import LostText, lost_text
from experiments.assemble.data import Encoder
from experiments.assemble.needs import left_out
from experiments.record.run_dir import MAIN
from experiments.run.alarms import short_of

if TYPE_CHECKING:
    from experiments.run.context import RunContext

SAMPLES = 64
"""Texts that are looked at; tokenizers fail on kinds of text, not on single ones."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One teacher's tokenizer on a sample of the run's texts."""

    coverage: float
    """Share of the student's text tokens that the aligner feeds."""
    lost: LostText
    """What the tokenizer changes or leaves out."""

    def line(self, name: str) -> str:
        """One line for a log."""
        return (
            f"teacher {name!r} reaches {self.coverage:.1%} of the student's tokens; "
            f"{self.lost}"
        )

    def alarm(self, name: str, least: float) -> str:
        """A warning where coverage, or what the tokenizer tells, is below a share."""
        share_told = 1 - self.lost.untold
        if self.coverage >= least and share_told >= least:
            return ""
        unreached = self.coverage < least
        share, bar = short_of(self.coverage if unreached else share_told, least)
        what = (
            f"reaches only {share} of the student's tokens"
            if unreached
            else f"tells only {share} of the characters"
        )
        return (
            f"teacher {name!r} {what} (align.min_coverage is {bar}): "
            f"{self.lost}. What it knows of the rest is not taught; choose texts "
            "it can read, or leave it out"
        )

    def plain(self) -> dict[str, Any]:
        """What the summary keeps."""
        return {
            "coverage": round(self.coverage, 4),
            "lost_share": round(self.lost.share, 6),
            "lost": str(self.lost),
        }


def how_teachers_read(
    samples: Sequence[TextSample],
    encode: Encoder,
    teachers: Mapping[str, Encoder],
    aligner: Callable[..., Any],
) -> dict[str, Reading]:
    """Read some texts with every tokenizer.

    Args:
        samples: the run's; the first ``SAMPLES`` are read.
        encode: the student's tokenizer.
        teachers: what reads for each, by name.
        aligner: maps two token batches to an Alignment.
    """
    texts = [sample.text for sample in samples[:SAMPLES]]
    student = encode(texts)
    readings = {}
    for name, read in teachers.items():
        student_batch, tokenizer = read(texts), read.tokenizer
        alignment = aligned(aligner, student, student_batch)
        coverage = alignment.coverage(student.has_text)
        readings[name] = Reading(coverage, lost_text(tokenizer, student_batch))
    return readings


def tell_texts(run: RunContext) -> None:
    """How the texts were cut, on the console and in the report.

    What a user should look into was told as a warning already.
    """
    if not run.engine.is_main:
        return
    for sentence in run.data.notes:
        say(sentence)
    for sentence in (*run.data.warnings, *run.data.notes):
        event = {"kind": "event", "step": 0, "event": sentence}
        run.metrics.write_once(MAIN, run.config.phases[0], event)


def tell_left_out(run: RunContext) -> None:
    """Which teacher a term cannot learn from, in the report; the console was told."""
    if not run.engine.is_main:
        return
    for stage in run.arms[MAIN]:
        teachers = run.models.chosen(stage.teachers)
        for sentence in left_out(stage.phase, run.registry, teachers):
            event = {"kind": "event", "step": 0, "event": sentence}
            run.metrics.write_once(MAIN, run.config.phases[0], event)


def tell_reading(run: RunContext) -> dict[str, Reading]:
    """How the teachers' tokenizers read the texts; loud where they do badly."""
    align = run.config.align
    readers = {
        name: Encoder.as_asked(run.models.teacher(name)) for name in run.config.teachers
    }
    aligner = run.registry.guarded("aligner", align.aligner)()
    readings = how_teachers_read(
        run.data.calibration, run.models.encode, readers, aligner
    )
    if run.engine.is_main:
        for name, reading in readings.items():
            alarm = reading.alarm(name, align.min_coverage)
            say(f"warning: {alarm}" if alarm else reading.line(name))
            line = {"kind": "reading", "step": 0, "teacher": name, **reading.plain()}
            run.metrics.write_once(MAIN, run.config.phases[0], line)
            if alarm:
                event = {"kind": "event", "step": 0, "event": alarm}
                run.metrics.write_once(MAIN, run.config.phases[0], event)
    return readings
