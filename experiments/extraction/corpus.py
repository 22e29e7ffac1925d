"""A run's training text as a stream, so that memory does not follow its length.

What is chosen is what :func:`experiments.assemble.data.load_data` would train and
calibrate on, but in the order of the sources: a shard is then one stretch of the text,
and each task of an array reads only up to its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from align.text.documents import TextSample
from align.tokens.cut import Reader
from experiments.assemble.data import (
    Encoder,
    at_most,
    calibration_texts,
    cutter_of,
    held_out_text,
    longest_texts,
)
from experiments.assemble.splits import (
    LEARNT,
    MEASURED,
    Pieces,
    check_overlap,
    choose,
)
from experiments.assemble.text_sources import Reading
from experiments.texts.config import DataConfig
from experiments.texts.cuts import refuse_lost, told_of
from teacher.store.reader import text_bytes

SAMPLED = 64
"""Pieces for measurements."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Which pieces of text a store holds; made by :func:`plan_corpus`."""

    config: DataConfig
    pieces: Pieces
    """Where ``data.train`` was cut, so that it is cut again without a tokenizer."""
    marks: bytearray
    """One byte a piece: ``LEARNT``, ``MEASURED`` or another mark of the choice."""
    calibration: tuple[TextSample, ...]
    """The texts a run calibrates on, where they are a split of their own."""
    samples: int
    """Texts in all, those to calibrate on included."""
    digest: str
    """SHA-256 over all the texts, in order."""
    longest: tuple[TextSample, ...]
    """The longest texts of a run, the ones it measures on included."""
    probe: tuple[TextSample, ...]
    """Pieces evenly spread over the sources, for measurements."""
    warnings: tuple[str, ...] = ()
    """What a user should know of how the texts were cut."""

    def stream(self) -> Iterator[TextSample]:
        """All texts that are extracted, in order."""
        yield from self.marked(LEARNT)
        yield from self.calibration

    def marked(self, mark: int) -> Iterator[TextSample]:
        """The pieces of ``data.train`` that bear a mark, in order."""
        pieces = self.pieces.again(Reading(self.config).samples("train", "student"))
        return (
            piece
            for piece, piece_mark in zip(pieces, self.marks, strict=True)
            if piece_mark == mark
        )

    def shards(
        self, size: int, numbers: Sequence[int]
    ) -> Iterator[tuple[int, list[TextSample]]]:
        """Read some shards' texts: (number, texts), in ascending order.

        Args:
            size: texts in a shard.
            numbers: the shards wanted.
        """
        wanted = set(numbers)
        last = max(wanted, default=-1)
        held: list[TextSample] = []
        for index, sample in enumerate(self.stream()):
            number, place = divmod(index, size)
            if number > last:
                return
            if number in wanted:
                held.append(sample)
                if place == size - 1 or index == self.samples - 1:
                    yield number, held
                    held = []


def plan_corpus(
    config: DataConfig,
    encode: Encoder,
    *,
    seed: int,
    calibration: int,
    see: Callable[[TextSample], None] = lambda sample: None,
    teachers: Sequence[Reader] = (),
) -> Corpus:
    """Read the text once to see what there is, and choose what is extracted.

    Some thirty bytes are held for every piece.

    Args:
        config: the ``data`` section.
        encode: the student's tokenizer, which decides how long a piece may be.
        seed: the run's, which decides what is held out.
        calibration: how many texts a run calibrates on at most.
        see: called with every text that is extracted or measured on.
        teachers: who else limits how long a piece may be.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file cannot be read as text; names the line.
    """
    reading, cutter = Reading(config), cutter_of(encode, teachers)
    pieces = Pieces()
    for document, spans in cutter.spans(reading.samples("train", "student")):
        pieces.add(document, spans)
    apart, held = held_out_text(reading, cutter, seed)
    split = choose(config, pieces, held, seed)
    of_calibration = tuple(calibration_texts(config, cutter))
    learnt, digest = split.marks.count(LEARNT), hashlib.sha256()
    overlap = check_overlap(
        config,
        twice=split.twice,
        total=len(pieces),
        left=learnt,
        sources=split.sources,
    )
    if not learnt:
        refuse_lost(cutter, encode)
    bare = Corpus(
        config=config,
        pieces=pieces,
        marks=split.marks,
        calibration=of_calibration[:calibration],
        samples=0,
        digest="",
        longest=(),
        probe=(),
    )
    count, step = 0, max(1, learnt // SAMPLED)
    probe: list[TextSample] = []

    def extracted() -> Iterator[TextSample]:
        nonlocal count
        for sample in bare.stream():
            if count % step == 0 and len(probe) < SAMPLED:
                probe.append(sample)
            text = text_bytes(sample.text)
            digest.update(len(text).to_bytes(8, "little") + text)
            count += 1
            yield sample

    def seen() -> Iterator[TextSample]:
        others = [*at_most(apart, config.eval_samples), *of_calibration]
        for sample in chain(extracted(), bare.marked(MEASURED), others):
            see(sample)
            yield sample

    longest = longest_texts(seen())
    return replace(
        bare,
        samples=count,
        digest=digest.hexdigest(),
        longest=tuple(longest),
        probe=tuple(probe),
        warnings=tuple(
            s
            for s in (
                *reading.bad_rows.sentences(),
                *told_of(cutter, encode)[0],
                overlap,
            )
            if s
        ),
    )
