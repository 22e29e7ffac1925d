"""The texts of a run: to learn from, to calibrate on, to be measured on."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import TypeVar

from align.errors import InputError
from align.support.cache_folder import cache_folder
from align.text.documents import TextSample
from align.text.prompted import read_by_teachers
from align.tokens.batch import TokenBatch, encode_batch
from align.tokens.byte_lengths import ByteLengths
from align.tokens.cut import Cutter, Reader
from align.tokens.pairs import encode_pairs
from align.views import Teacher
from experiments.assemble.splits import (
    LEARNT,
    MEASURED,
    SPARE,
    HeldOut,
    Pieces,
    Split,
    check_overlap,
    choose,
    digest_of,
    source_of,
)
from experiments.assemble.text_sources import ZOO, Reading, zoo_texts
from experiments.texts.config import DataConfig
from experiments.texts.cuts import idle_among, refuse_lost, told_of
from experiments.texts.held import TextFileOnDisk, chosen
from experiments.texts.mixing import mixed
from teacher.store.reader import text_bytes

SHARED_GATE = (
    "the gate decides on the held-out text that the report shows, because some domain "
    "has no more of it; give more in data.eval or lower data.eval_samples to keep the "
    "two apart"
)
_AT_ONCE = 64
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """Samples that fit the student's ``max_length``."""

    train: Sequence[TextSample]
    eval: list[TextSample]
    calibration: Sequence[TextSample]
    """Drawn from text that is not measured on; may overlap with ``train``."""
    warnings: tuple[str, ...] = ()
    """What a user should know of how the texts were cut."""
    gate: Sequence[TextSample] = ()
    """Held-out text of its own for the gate; empty: it decides on ``eval``."""
    notes: tuple[str, ...] = ()
    """How the texts were cut, where nothing is amiss."""

    @property
    def domains(self) -> list[str]:
        """Domains that are measured, in order of appearance."""
        return list(dict.fromkeys(sample.domain for sample in self.eval))


class Encoder:
    """A tokenizer that cuts at a length; texts to one padded batch.

    Of an encoder-decoder it makes rows of sources and targets.
    """

    def __init__(
        self,
        tokenizer: object,
        max_length: int | None,
        learn_end: bool | None = None,
        start: int | None = None,
    ) -> None:
        """Hold a fast tokenizer, the most tokens of a text, and what ends texts.

        Args:
            tokenizer: of a model.
            max_length: most tokens of a text; None keeps all.
            learn_end: see :func:`align.tokens.batch.encode_batch`.
            start: what the model's decoder is given first, see
                :func:`teacher.capture.pair_capture.decoder_start`.
        """
        self.start, self.beside = start, False
        self.tokenizer, self.max_length = tokenizer, max_length
        self.learn_end = learn_end

    @cached_property
    def byte_lengths(self) -> ByteLengths | None:
        """The tokenizer's table; of a vocabulary of many ids it takes long to read."""
        return ByteLengths.of(self.tokenizer)

    @staticmethod
    def of_teacher(teacher: Teacher) -> Encoder:
        """A teacher's, as it reads the student's texts."""
        capture = getattr(teacher, "capture", None)
        start = getattr(capture, "start", None)
        encode = Encoder(teacher.tokenizer, None, start=start)
        if hasattr(teacher, "byte_lengths"):  # a plugin's may have none at hand
            encode.byte_lengths = teacher.byte_lengths
        return encode

    @staticmethod
    def as_asked(teacher: Teacher) -> Encoder:
        """A teacher's, as it is asked while the student learns: of a translation beside
        its source (:class:`align.text.prompted.Beside`) it reads the source."""
        encode = Encoder.of_teacher(teacher)
        encode.beside = True
        return encode

    def uncut(self, learn_end: bool | None = None) -> Encoder:
        """The same without a limit, and with other ends of texts."""
        _ = self.byte_lengths  # of both
        other = copy(self)
        other.max_length, other.learn_end = None, learn_end
        return other

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Encode texts as :func:`align.tokens.batch.encode_batch` does, or
        :func:`align.tokens.pairs.encode_pairs`."""
        if self.beside:
            texts = read_by_teachers(texts)
        if self.start is not None:
            return encode_pairs(
                self.tokenizer,
                texts,
                self.start,
                max_length=self.max_length,
                byte_lengths=self.byte_lengths,
                learn_end=self.learn_end,
            )
        return encode_batch(
            self.tokenizer,
            texts,
            max_length=self.max_length,
            byte_lengths=self.byte_lengths,
            learn_end=self.learn_end,
        )


def cutter_of(encode: Encoder, teachers: Sequence[Reader] = ()) -> Cutter:
    """What cuts all texts of a run, the same whatever ``data.learn_end`` says.

    Args:
        encode: the student's tokenizer and ``data.max_length``.
        teachers: those who can read only so many tokens.
    """
    assert encode.max_length is not None
    student = Reader("student", encode.uncut(learn_end=True), encode.max_length)
    return Cutter([student, *teachers])


def load_data(
    config: DataConfig,
    encode: Encoder,
    seed: int,
    gated: bool = False,
    teachers: Sequence[Reader] = (),
) -> RunData:
    """Read, cut and split a run's text.

    Args:
        config: the ``data`` section.
        encode: the student's tokenizer, which decides how long a piece may be.
        seed: decides which samples are held out where no eval text is given.
        gated: look for text that a gate may decide on.
        teachers: who else limits how long a piece may be.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file cannot be read as text, holds none, or too little to hold
            anything out; or it is held out too and ``overlap`` is ``refuse``.
    """
    reading, cutter = Reading(config), cutter_of(encode, teachers)
    on_disk = config.hold == "disk"
    samples: TextFileOnDisk | list[TextSample]
    samples = TextFileOnDisk(cache_folder() / "texts") if on_disk else []
    pieces = Pieces()
    for document, spans in cutter.spans(reading.samples("train", "student")):
        samples.extend(pieces.add(document, spans))
    apart, held = held_out_text(reading, cutter, seed)
    split = choose(config, pieces, held, seed)
    kept, held_for_calibration, others = (
        chosen(samples, split.of(mark)) for mark in (LEARNT, MEASURED, SPARE)
    )
    spare = at_most(others, config.eval_samples) if gated else []
    overlap = check_overlap(
        config,
        twice=split.twice,
        total=len(pieces),
        left=len(kept),
        sources=split.sources,
    )
    first = at_most(apart, config.eval_samples)
    measured = [*first, *held_for_calibration]
    taken = {id(sample) for sample in first}
    held_out = [*measured, *spare, *(s for s in apart if id(s) not in taken)]
    if not kept or not measured:
        refuse_lost(cutter, encode)
        raise InputError(
            f"data gives {len(kept)} training and {len(measured)} held-out samples of "
            f"up to {encode.max_length} tokens; give more text in data.train, or "
            "held-out text in data.eval"
        )
    gate = gate_text(held_out, measured) if gated else []
    shared = "" if gate or not gated else SHARED_GATE
    lost, notes = told_of(cutter, encode)
    calibration = calibration_texts(config, cutter) or kept
    names, learnt = list(pieces.domains), split.of(LEARNT)
    domains = [names[pieces.codes[index]] for index in learnt]
    order, mix = mixed(domains, config.mix, config.mix_temperature, seed)
    return RunData(
        train=chosen(samples, _shuffled([learnt[place] for place in order], seed)),
        eval=measured,
        calibration=calibration,
        warnings=tuple(
            s
            for s in (
                *reading.bad_rows.sentences(),
                *idle_among(config, kept),
                *lost,
                overlap,
                shared,
            )
            if s
        ),
        gate=gate,
        notes=(*notes, *mix, *_weights_of(kept, config), *_held_by_pieces(split)),
    )


def held_out_text(
    reading: Reading, cutter: Cutter, seed: int
) -> tuple[list[TextSample], HeldOut]:
    """Cut the held-out text that stands apart from the text to learn from.

    Args:
        reading: of the run's text.
        cutter: of the run.
        seed: the run's.

    Returns:
        Pieces of ``data.eval``, or of the embedded texts, empty where neither is read;
        and what they mean for the choice among ``data.train``.
    """
    config = reading.config
    held = list(reading.samples("eval", "eval"))
    if not config.eval and any(path == ZOO for _, path in config.sources("train")):
        held = [*zoo_texts("eval"), *reading.pairs("eval")]
    digests = {digest_of(document.text) for document in held}
    cut = _shuffled(list(cutter.pieces(held)), seed)
    digests |= {digest_of(piece.text) for piece in cut}
    domains = None if config.eval else frozenset(sample.domain for sample in cut)
    sources = frozenset(map(source_of, cut)) - {0}
    return cut, HeldOut(domains, frozenset(digests), sources)


def _weights_of(samples: Sequence[TextSample], config: DataConfig) -> list[str]:
    """A sentence where texts to learn from do not all count alike."""
    weights = [sample.weight for sample in samples]
    changed = sum(weight != 1 for weight in weights)
    if not changed:
        return []
    return [
        f"{changed} of {len(weights)} training samples have a weight of their own in "
        f"{config.weight_field!r}, from {min(weights):g} to {max(weights):g}; set "
        "data.weight_field=null where that field means something else"
    ]


def _held_by_pieces(split: Split) -> Iterator[str]:
    for name in split.whole:
        yield (
            f"domain {name!r} is one document, so its end is held out; give more "
            "documents, or held-out text in data.eval"
        )


def longest_texts(samples: Iterable[TextSample]) -> list[TextSample]:
    """The texts that show whether a model's positions suffice, the longest first.

    They depend on neither the order of the samples nor how often one is there.
    """
    longest: dict[tuple[int, bytes], TextSample] = {}
    least: list[tuple[int, bytes]] = []
    for sample in samples:
        key = len(sample.text), text_bytes(sample.text)
        if key in longest or (len(longest) == _AT_ONCE and key < least[0]):
            continue
        longest[key] = sample
        heapq.heappush(least, key)
        if len(least) > _AT_ONCE:
            del longest[heapq.heappop(least)]
    return [longest[key] for key in sorted(longest, reverse=True)]


def gate_text(
    held_out: Sequence[TextSample], measured: Sequence[TextSample]
) -> list[TextSample]:
    """Held-out samples that are not measured on, as many for each domain.

    Returns:
        Nothing where some domain has less than half as many.
    """
    taken = {id(sample) for sample in measured}
    spare = [sample for sample in held_out if id(sample) not in taken]
    wanted = Counter(sample.domain for sample in measured)
    gate = [s for d, n in wanted.items() for s in _of(spare, d)[:n]]
    of_domain = Counter(sample.domain for sample in gate)
    return gate if all(2 * of_domain[d] >= n for d, n in wanted.items()) else []


def _of(samples: Sequence[TextSample], domain: str) -> list[TextSample]:
    return [sample for sample in samples if sample.domain == domain]


def fitting_length(config: DataConfig, encode: Encoder, teacher: Reader) -> int | None:
    """Find, by trying, a ``max_length`` with which a teacher reads every text.

    Args:
        config: the ``data`` section.
        encode: the student's tokenizer.
        teacher: who reads only so many tokens.

    Returns:
        One near the greatest; None where not even 8 tokens will do.
    """

    def fits(length: int) -> bool:
        student = Reader("student", encode.uncut(learn_end=True), length)
        reading = Reading(config)
        texts = reading.samples("train", "student")
        others = reading.samples("eval", "eval")
        cut = Cutter([student]).pieces(chain(texts, others))
        while group := [sample.text for sample in islice(cut, _AT_ONCE)]:
            if int(teacher.read(group).mask.sum(1).max()) > teacher.limit:
                return False
        return True

    least, most = 8, config.max_length
    if not fits(least):
        return None
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least


def calibration_texts(config: DataConfig, cutter: Cutter) -> list[TextSample]:
    """What a run calibrates on where that is a split of its own; else nothing."""
    if config.pairs or any(path != ZOO for _, path in config.sources("train")):
        return []
    return _shuffled(list(cutter.pieces(zoo_texts("calibration"))), 0)


def _shuffled(items: Sequence[T], seed: int) -> list[T]:
    out = list(items)
    random.Random(seed).shuffle(out)
    return out


def at_most(samples: Iterable[TextSample], count: int | None) -> list[TextSample]:
    """The first of each domain, in order; None keeps all."""
    if count is None:
        return list(samples)
    taken: dict[str, int] = {}
    out = []
    for sample in samples:
        taken[sample.domain] = taken.get(sample.domain, 0) + 1
        if taken[sample.domain] <= count:
            out.append(sample)
    return out
