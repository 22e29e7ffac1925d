"""A run's training text as a stream, so that memory does not follow its length.

What is chosen is what :func:`experiments.data.load_data` would train and calibrate on,
but in the order of the sources: a shard is then one stretch of the text, and each task
of an array reads only up to its own.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from align.conversation import Conversation
from align.text import TextSample, chunk_samples
from experiments.data import (
    Encoder,
    at_most,
    cut_conversations,
    fitting_chars,
    held_out_text,
    longest_texts,
)
from experiments.sections import DataConfig
from experiments.text_sources import ZOO, Reading, zoo_texts
from teacher.store.reader import text_bytes

SAMPLED = 64
"""Documents that decide how long a piece may be, and pieces for measurements."""

LEARNT, MEASURED = 1, 2
"""Marks of pieces that a run trains on, and of held-out ones that it measures on."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Which pieces of text a store holds; made by :func:`plan_corpus`."""

    config: DataConfig
    encode: Encoder
    calibration: int
    """How many texts a run calibrates on, where they are a split of their own."""
    chars: int
    """Longest piece in characters."""
    marks: bytearray
    """One byte a piece of the sources: ``LEARNT``, ``MEASURED`` or neither."""
    samples: int
    """Texts in all, those to calibrate on included."""
    digest: str
    """SHA-256 over all the texts, in order."""
    longest: tuple[TextSample, ...]
    """The longest texts of a run, the ones it measures on included."""
    probe: tuple[TextSample, ...]
    """Pieces evenly spread over the sources, for measurements."""

    def stream(self) -> Iterator[TextSample]:
        """All texts that are extracted, in order."""
        yield from self.pieces(LEARNT)
        yield from _calibration(self.config, self.chars)[: self.calibration]

    def pieces(self, mark: int) -> Iterator[TextSample]:
        """The pieces of ``data.train`` that bear a mark, in order."""
        pieces = chunked(train_documents(self.config, self.encode), self.chars)
        return (
            piece for piece, own in zip(pieces, self.marks, strict=True) if own == mark
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
    seed: int,
    calibration: int,
    check: Callable[[TextSample], None] = lambda sample: None,
) -> Corpus:
    """Read the text once to see what there is, and choose what is extracted.

    Eleven bytes are held for every piece while choosing, one afterwards.

    Args:
        config: the ``data`` section.
        encode: the student's tokenizer, which decides how long a piece may be.
        seed: the run's, which decides what is held out.
        calibration: how many texts a run calibrates on at most.
        check: called with every text that is extracted.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file cannot be read as text; names the line.
    """
    chars = _fitting_chars(config, encode)
    domains: dict[str, int] = {}
    codes = array("H")
    for piece in chunked(train_documents(config, encode), chars):
        codes.append(domains.setdefault(piece.domain, len(domains)))
    marks = choose(config, codes, list(domains), _held_domains(config), seed)
    digest = hashlib.sha256()
    bare = Corpus(config, encode, calibration, chars, marks, 0, "", (), ())
    count, step = 0, max(1, marks.count(LEARNT) // SAMPLED)
    probe: list[TextSample] = []

    def extracted() -> Iterator[TextSample]:
        nonlocal count
        for sample in bare.stream():
            check(sample)
            if count % step == 0 and len(probe) < SAMPLED:
                probe.append(sample)
            text = text_bytes(sample.text)
            digest.update(len(text).to_bytes(8, "little") + text)
            count += 1
            yield sample

    others = at_most(
        held_out_text(Reading(config), encode, chars, seed), config.eval_samples
    )
    others += _calibration(config, chars)
    longest = longest_texts(chain(extracted(), bare.pieces(MEASURED), others))
    return replace(
        bare,
        samples=count,
        digest=digest.hexdigest(),
        longest=tuple(longest),
        probe=tuple(probe),
    )


def choose(
    config: DataConfig,
    codes: array[int],
    domains: Sequence[str],
    held: set[str] | None,
    seed: int,
) -> bytearray:
    """Mark the pieces a run learns from and measures on, as ``load_data`` chooses them.

    Args:
        config: the ``data`` section.
        codes: the domain of each piece, by number.
        domains: names, by number.
        held: domains that have held-out text of their own; None where all have it.
        seed: the run's.

    Returns:
        One byte a piece.
    """
    order = array("q", range(len(codes)))
    random.Random(seed).shuffle(order)
    sizes = [codes.count(code) for code in range(len(domains))]
    spared = [0] * len(domains)
    if held is not None:
        for code, name in enumerate(domains):
            if name not in held and sizes[code] > 1:
                spared[code] = max(1, round(config.eval_share * sizes[code]))
    marks = bytearray(len(codes))
    seen = [0] * len(domains)
    most, measured = config.train_samples, config.eval_samples
    for index in order:
        code = codes[index]
        seen[code] += 1
        place = seen[code] - spared[code]
        if place > 0 and (most is None or place <= most):
            marks[index] = LEARNT
        elif place <= 0 and (measured is None or seen[code] <= measured):
            marks[index] = MEASURED
    return marks


def train_documents(config: DataConfig, encode: Encoder) -> Iterator[TextSample]:
    """The documents of ``data.train``, conversations cut, one after the other."""
    held: list[TextSample] = []
    for document in _sources(config):
        held.append(document)
        if len(held) == SAMPLED:
            yield from cut_conversations(held, encode)[0]
            held = []
    yield from cut_conversations(held, encode)[0]


def _sources(config: DataConfig) -> Iterator[TextSample]:
    return Reading(config).samples("train", "student")


def chunked(documents: Iterable[TextSample], chars: int) -> Iterator[TextSample]:
    """Cut each document as :func:`chunk_samples` does."""
    for document in documents:
        yield from chunk_samples([document], chars)


def _fitting_chars(config: DataConfig, encode: Encoder) -> int:
    """As :func:`fitting_chars` of all documents, of which it looks at some."""
    count = sum(1 for _ in _written(config))
    step = max(1, count // SAMPLED)
    some = []
    for index, document in enumerate(_written(config)):
        if index % step == 0:
            some.append(document)
        if len(some) == SAMPLED:
            break
    return fitting_chars(some, encode)


def _written(config: DataConfig) -> Iterator[TextSample]:
    """The documents that are no conversations."""
    return (s for s in _sources(config) if not isinstance(s.text, Conversation))


def _held_domains(config: DataConfig) -> set[str] | None:
    if config.eval:
        return None
    if any(path == ZOO for _, path in config.sources("train")):
        return {sample.domain for sample in zoo_texts("eval")}
    return set()


def _calibration(config: DataConfig, chars: int) -> list[TextSample]:
    """The split of the embedded texts that a run calibrates on, in its order."""
    if any(path != ZOO for _, path in config.sources("train")):
        return []
    out = list(chunked(zoo_texts("calibration"), chars))
    random.Random(0).shuffle(out)
    return out
