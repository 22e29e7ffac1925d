"""Who reads a run's texts, and how: every model's tokens beside the student's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.across.tokens import aligned
from align.text.documents import TextSample
from align.time_align import Alignment
from align.tokens.batch import TokenBatch
from align.tokens.lost_text import lost_text
from align.views import Teacher
from experiments.assemble.data import Encoder
from experiments.assemble.models import Models
from experiments.assemble.outputs import digest, spelling
from experiments.rehearsal.pieces import Piece, Turns, pieces_of, turns_of

STUDENT = "student"
SAMPLES = 64
"""Texts of a domain that are counted."""
SHOWN = 2
"""Texts of a domain that are shown."""
MISSED = 5
"""Tokens without a teacher that are named."""

Aligner = Callable[[TokenBatch, TokenBatch], Alignment]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """One model, as one who reads."""

    name: str
    family: str
    kind: str
    layers: int
    vocabulary: int | None
    """Tokens it has; None of a teacher whose store is on the student's tokens."""
    shared: str
    """What of its vocabulary the student has, too, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """One model's tokens of one domain."""

    reader: str
    tokens: float
    """Of a sample, on the average."""
    covered: float | None
    """Share of the student's text tokens that it feeds; None of the student."""
    missed: tuple[str, ...]
    """Some of the others."""
    lost: str
    """What its tokenizer does not tell, in words."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The front of one sample."""

    sample: str
    pieces: Mapping[str, Sequence[Piece]]
    """By reader."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """One kind of text."""

    name: str
    samples: int
    """That are learned from."""
    counted: Sequence[Counted]
    turns: Sequence[Turns]
    """Of conversations; empty where there are none."""
    shown: Sequence[Shown]
    """Some samples that are learned from."""


def readers_of(models: Models, student_family: str) -> list[Reader]:
    """The student and every teacher of a run.

    Args:
        models: loaded.
        student_family: the student's architecture.
    """
    tokenizer = models.student_tokenizer
    student = Reader(
        name=STUDENT,
        family=student_family,
        kind="decoder",
        layers=models.student_layers,
        vocabulary=len(tokenizer),
        shared="",
    )
    return [student, *(_reader(t, tokenizer) for t in models.teachers.values())]


def _reader(teacher: Teacher, tokenizer: Any) -> Reader:
    theirs = teacher.tokenizer
    return Reader(
        name=teacher.name,
        family=teacher.family,
        kind=teacher.kind,
        layers=teacher.sizes.layers,
        vocabulary=None if theirs is None else len(theirs),
        shared="stored" if theirs is None else shared_pieces(tokenizer, theirs),
    )


def shared_pieces(student: Any, teacher: Any) -> str:
    """Say how many pieces of text two tokenizers both have as a token.

    Args:
        student: the student's tokenizer.
        teacher: another.
    """
    if digest(student) == digest(teacher):
        return "the student's vocabulary"
    try:
        ours, theirs = (
            {piece for piece in spelling(tokenizer).pieces if piece}
            for tokenizer in (student, teacher)
        )
    except ValueError:
        return "unknown: its tokens do not spell their blanks"
    both = len(ours & theirs)
    return f"{both:,} pieces, {both / max(1, len(ours)):.0%} of the student's"


def domains_of(
    samples: Sequence[TextSample], models: Models, aligner: Aligner
) -> list[Domain]:
    """Read some texts of every domain with every tokenizer.

    Args:
        samples: what is learned from, in an order of its own.
        models: loaded.
        aligner: the run's.
    """
    by_domain: dict[str, list[TextSample]] = {}
    for sample in samples:
        by_domain.setdefault(sample.domain, []).append(sample)
    return [_domain(n, s, models, aligner) for n, s in sorted(by_domain.items())]


def _domain(
    name: str, samples: Sequence[TextSample], models: Models, aligner: Aligner
) -> Domain:
    texts = [sample.text for sample in samples[:SAMPLES]]
    batch = models.encode(texts)
    counted = [_counted(STUDENT, models.student_tokenizer, batch)]
    read = {STUDENT: (models.student_tokenizer, batch)}
    for teacher in models.teachers.values():
        if teacher.tokenizer is None:  # its keys and values are on the student's tokens
            continue
        theirs = Encoder.as_asked(teacher)(texts)
        alignment = aligned(aligner, batch, theirs)
        counted.append(
            _counted(teacher.name, teacher.tokenizer, theirs, batch, alignment)
        )
        read[teacher.name] = teacher.tokenizer, theirs
    return Domain(
        name=name,
        samples=len(samples),
        counted=counted,
        turns=turns_of(batch),
        shown=[
            Shown(
                sample.id,
                {name: pieces_of(*reading, row) for name, reading in read.items()},
            )
            for row, sample in enumerate(samples[:SHOWN])
        ],
    )


def _counted(
    name: str,
    tokenizer: Any,
    tokens: TokenBatch,
    student: TokenBatch | None = None,
    alignment: Alignment | None = None,
) -> Counted:
    covered, missed = None, dict[str, None]()
    if alignment is not None and student is not None:
        covered = alignment.coverage(student.has_text)
        for row, place in (student.has_text & ~alignment.covered).nonzero().tolist():
            start, end = student.spans[row, place].tolist()
            missed[student.texts[row][start:end]] = None
            if len(missed) == MISSED:
                break
    return Counted(
        reader=name,
        tokens=float(tokens.mask.sum()) / max(1, len(tokens.texts)),
        covered=covered,
        missed=tuple(missed),
        lost=str(lost_text(tokenizer, tokens)),
    )
