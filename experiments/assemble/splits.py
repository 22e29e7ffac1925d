"""Which pieces of a run's text are learned from, and which are held out.

One decision for runs, which hold their text, and for stores, which stream it: it needs
no text, only where each piece is from and a digest of it.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from align.errors import InputError
from align.text.documents import TextSample
from align.text.prompted import Beside, Prompted
from align.tokens.cut import Span, pieces_of
from experiments.texts.config import DataConfig
from teacher.store.reader import text_bytes

Bools = NDArray[np.bool_]

UNUSED, LEARNT, MEASURED, SPARE = 0, 1, 2, 3
"""Marks of pieces: nobody's, to learn from, to be measured on, and held out beside
these for the gate."""


def digest_of(text: str) -> int:
    """64 bits that tell a text from all others, for all practical purposes."""
    return int.from_bytes(sha256(text_bytes(text)).digest()[:8], "little")


def source_of(sample: TextSample) -> int:
    """A digest of a pair's source within its domain; 0 of all other texts."""
    text = sample.text
    if not isinstance(text, Prompted | Beside):
        return 0
    source = text.prompt if isinstance(text, Prompted) else text.other
    return digest_of(f"{sample.domain}\0{source}") or 1


class Pieces:
    """Where the pieces of ``data.train`` are from; 18 bytes each, and 20 a document."""

    def __init__(self) -> None:
        """Begin with none."""
        self.domains: dict[str, int] = {}
        """Numbers of the domains, in order of appearance."""
        self.codes = array("H")
        """The domain of each piece."""
        self.documents = array("I")
        """The document of each piece."""
        self.digests = array("Q")
        """Of each piece."""
        self.whole = array("Q")
        """Digest of each document."""
        self.sources = array("Q")
        """Of each document :func:`source_of`."""
        self.counts = array("I")
        """How many spans each document has, blank pieces included."""
        self.stops = array("I")
        """The end of each span in its document."""

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self.codes)

    def add(self, sample: TextSample, spans: Sequence[Span]) -> list[TextSample]:
        """Note a document that was cut; gives its pieces."""
        code = self.domains.setdefault(sample.domain, len(self.domains))
        pieces = pieces_of(sample, spans)
        for piece in pieces:
            self.codes.append(code)
            self.documents.append(len(self.whole))
            self.digests.append(digest_of(piece.text))
        self.whole.append(digest_of(sample.text))
        self.sources.append(source_of(sample))
        self.counts.append(len(spans))
        self.stops.extend(stop for _, stop in spans)
        return pieces

    def again(self, samples: Iterable[TextSample]) -> Iterator[TextSample]:
        """Cut the same documents as before, without a tokenizer."""
        at = 0
        for sample, count in zip(samples, self.counts, strict=True):
            stops = self.stops[at : at + count]
            at += count
            yield from pieces_of(
                sample, list(zip([0, *stops[:-1]], stops, strict=True))
            )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Text that stands apart from ``data.train``."""

    domains: frozenset[str] | None
    """Domains that need nothing held out of ``data.train``; None: no domain does."""
    digests: frozenset[int] = frozenset()
    """Of its documents and of its pieces."""
    sources: frozenset[int] = frozenset()
    """Of its pairs, see :func:`source_of`."""


@dataclass(kw_only=True, slots=True)
class Split:
    """What becomes of each piece."""

    marks: bytearray
    """One byte a piece."""
    order: array[int]
    """All pieces in the order in which they were chosen."""
    twice: int = 0
    """Pieces to learn from that are held out, too, by their text."""
    sources: int = 0
    """Others, whose sources are held out with another translation."""
    whole: list[str] = field(default_factory=list)
    """Domains held out by pieces, because they are one document each."""

    def of(self, mark: int) -> list[int]:
        """The pieces that bear a mark, in the order of the choice."""
        return [index for index in self.order if self.marks[index] == mark]


def choose(config: DataConfig, pieces: Pieces, held: HeldOut, seed: int) -> Split:
    """Decide for each piece whether it is learned from or held out.

    Where a domain has no held-out text of its own, documents of it are held out, until
    they have ``eval_share`` of its pieces; a domain of one document gives the end of
    it. Of documents that stand several times one is held out and the others are left
    out. Pieces whose text is held out are not learned from, unless ``overlap=keep``;
    nor are pairs whose source is, whatever their translation.

    Args:
        config: the ``data`` section.
        pieces: all that ``data.train`` holds.
        held: what else is held out.
        seed: the run's; decides which.
    """
    order = array("q", range(len(pieces)))
    random.Random(seed).shuffle(order)
    split = Split(marks=bytearray(len(pieces)), order=order)
    by_documents = _held_documents(config, pieces, held, split)
    out = by_documents | _held_ends(config, pieces, held, split)
    digests, whole = np.array(pieces.digests), np.array(pieces.whole)
    documents = np.array(pieces.documents)
    known = np.array(sorted(held.digests), np.uint64)
    copies = np.isin(whole, whole[documents[by_documents]])[documents] & ~out
    twice = np.isin(digests, np.union1d(known, digests[out])) & ~out
    twice |= np.isin(whole, known)[documents] & ~out
    split.twice = int((twice | copies).sum())
    sources = np.array(pieces.sources, np.uint64)
    shared = np.array(sorted(held.sources), np.uint64)
    shared = np.union1d(shared, sources[documents[out]])
    alike = np.isin(sources, shared[shared != 0])[documents]
    alike &= ~(out | twice | copies)
    split.sources = int(alike.sum())
    dropped = copies if config.overlap == "keep" else twice | copies | alike
    _mark(config, pieces, split, out, dropped)
    return split


def _mark(
    config: DataConfig, pieces: Pieces, split: Split, out: Bools, dropped: Bools
) -> None:
    """Give out the marks, at most so many of each domain."""
    learnt, measured = [0] * len(pieces.domains), [0] * len(pieces.domains)
    most, tested = config.train_samples, config.eval_samples
    for index in split.order:
        code = pieces.codes[index]
        if out[index]:
            measured[code] += 1
            enough = tested is not None and measured[code] > tested
            split.marks[index] = SPARE if enough else MEASURED
        elif not dropped[index]:
            learnt[code] += 1
            if most is None or learnt[code] <= most:
                split.marks[index] = LEARNT


def _to_be_split(pieces: Pieces, held: HeldOut) -> list[int]:
    """Numbers of the domains that have no held-out text of their own."""
    if held.domains is None:
        return []
    return [code for name, code in pieces.domains.items() if name not in held.domains]


def _held_documents(
    config: DataConfig, pieces: Pieces, held: HeldOut, split: Split
) -> Bools:
    """(P,) the pieces of documents that are held out."""
    out = np.zeros(len(pieces), np.bool_)
    split_codes = _to_be_split(pieces, held)
    if not split_codes:
        return out
    codes, documents = np.array(pieces.codes), np.array(pieces.documents)
    whole = np.array(pieces.whole)
    begins = np.searchsorted(documents, np.arange(len(pieces.whole) + 1))
    # a document stands for all of the same text in its domain
    texts: dict[int, set[int]] = {}
    for code in split_codes:
        texts[code] = set(whole[np.unique(documents[codes == code])].tolist())
    wanted = {
        code: max(1, round(config.eval_share * int((codes == code).sum())))
        for code in split_codes
        if len(texts[code]) > 1
    }
    for index in split.order:
        code, document = pieces.codes[index], pieces.documents[index]
        if wanted.get(code, 0) <= 0 or len(texts[code]) < 2:
            continue
        if pieces.whole[document] not in texts[code]:
            continue  # it, or another of the same text, is held out
        texts[code].discard(pieces.whole[document])
        out[begins[document] : begins[document + 1]] = True
        wanted[code] -= int(begins[document + 1] - begins[document])
    return out


def _held_ends(
    config: DataConfig, pieces: Pieces, held: HeldOut, split: Split
) -> Bools:
    """(P,) the last pieces of domains that are one document each."""
    out = np.zeros(len(pieces), np.bool_)
    codes = np.array(pieces.codes)
    names = list(pieces.domains)
    for code in _to_be_split(pieces, held):
        places = np.flatnonzero(codes == code)
        texts = {pieces.whole[pieces.documents[int(place)]] for place in places}
        if len(texts) == 1:
            first = pieces.documents[int(places[0])]
            places = places[[pieces.documents[int(p)] == first for p in places]]
            count = max(1, round(config.eval_share * len(places)))
            if len(places) > 1:
                out[places[-count:]] = True
                split.whole.append(names[code])
    return out


def check_overlap(
    config: DataConfig,
    *,
    twice: int,
    total: int,
    left: int,
    sources: int = 0,
    unit: str = "samples",
) -> str:
    """Say how much of the training text is held out, too.

    Args:
        config: the ``data`` section.
        twice: parts of ``data.train`` that are held out, too.
        total: parts of ``data.train``.
        left: how many are learned from.
        sources: other parts, whose sources are held out with another translation.
        unit: what the parts are called.

    Returns:
        A sentence; empty where no text is.

    Raises:
        InputError: all of it is, or some and ``overlap`` is ``refuse``.
    """
    if not twice and not sources:
        return ""
    train, held = ({path for _, path in config.sources(w)} for w in ("train", "eval"))
    both = sorted(train & held)
    named_twice = f"; data.train and data.eval both name {', '.join(both)}"
    parts = []
    if twice:
        parts.append(
            f"{twice} of {total} {unit} of data.train are held out, too, "
            f"character by character{named_twice if both else ''}"
        )
    if sources:
        parts.append(
            f"{sources} of {total} {unit} of data.train have sources that are held "
            "out with another translation"
        )
    what = "; ".join(parts)
    if not left:
        other = (
            "give other text in data.eval, or leave it empty to hold out "
            "data.eval_share of data.train"
            if config.eval
            else "give text in data.train that differs"
        )
        raise InputError(f"{what}, which leaves nothing to learn from; {other}")
    if config.overlap == "refuse":
        raise InputError(
            f"{what}, and data.overlap is refuse; take them out of one of the two, or "
            "set data.overlap=drop"
        )
    done = "are learned all the same" if config.overlap == "keep" else "are left out"
    return f"{what}: they {done} (data.overlap={config.overlap})"
