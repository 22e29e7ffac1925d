"""Cut documents into pieces that hold so many tokens, and lose no character."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from align.errors import InputError
from align.text.conversation import Conversation
from align.text.documents import TextSample, best_cut
from align.text.fragment import Fragment, ends
from align.text.prompted import Beside, Prompted
from align.tokens.answered import learned_part
from align.tokens.batch import TokenBatch

Span = tuple[int, int]
"""[start, end) of a piece in the characters of its document."""

_AT_ONCE = 64
"""Documents that are cut together."""
_WORD = re.compile(r"\S")
_DENSEST = 2
"""Most tokens that an ASCII character makes: itself, and a bare marker before it."""
_SPARSE = 5
"""Characters per token that a document is taken to have before it is read."""
_FILLED = 0.95
"""Share of the room that the next piece is meant to fill, by the last one's density."""
_AT_FIRST, _LATER = 2.0, 1.1
"""A rest of so many times the characters that may fit is tried whole."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A tokenizer that reads every piece, and how many of its tokens one may have."""

    name: str
    read: Callable[[Sequence[str]], TokenBatch]
    """Encodes texts whole."""
    limit: int
    """Most tokens of a piece, special ones included."""


def surely_at_most(tokens: int, text: str) -> bool:
    """Whether a text is so short that no tokenizer makes more tokens of it."""
    if isinstance(text, Conversation):
        return False
    return text.isascii() and _DENSEST * len(text) + 16 <= tokens


@dataclass(kw_only=True, slots=True)
class Tally:
    """What has been cut so far."""

    documents: int = 0
    """Plain texts that were read."""
    long: int = 0
    """Of these, how many became several pieces."""
    pieces: int = 0
    """Which the long ones became."""
    conversations: int = 0
    """Prompts with their completions among them."""
    shortened: int = 0
    """Conversations that lost their ends."""
    contents: int = 0
    """Characters of all conversations."""
    kept: int = 0
    """Of these, how many are left."""
    lost: int = 0
    """Prompts that left no room for their completions; counted in nothing else."""
    unlearned: int = 0
    """Conversations that lost every turn that is learned; counted in nothing else."""
    prompted: int = 0
    """Of the conversations, those that are prompts with their completions, or
    translations beside their sources."""
    by: dict[str, int] = field(default_factory=dict)
    """Pieces and conversations cut for each reader but the first."""
    indivisible: dict[str, str] = field(default_factory=dict)
    """For each reader the sample of the first character that does not fit alone."""


class Cutter:
    """Cuts texts for several readers alike, and counts what it did."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        """Hold the readers, the student first."""
        self.readers, self.tally = tuple(readers), Tally()

    def pieces(self, samples: Iterable[TextSample]) -> Iterator[TextSample]:
        """Cut samples one after the other; see :meth:`spans`."""
        for sample, spans in self.spans(samples):
            yield from pieces_of(sample, spans)

    def spans(
        self, samples: Iterable[TextSample]
    ) -> Iterator[tuple[TextSample, list[Span]]]:
        """Say where each sample is to be cut.

        Every piece is encoded by every reader and has no more tokens than its limit;
        the pieces joined give the document. Cuts fall where :func:`best_cut` puts
        them; inside a composed character only where nothing else fits, inside a
        character never. A conversation stays whole or loses its end, since the rest
        would begin in the middle of a turn; a prompt with its completion likewise.

        What is held in memory does not grow with the number of samples.
        """
        rest = iter(samples)
        while group := list(islice(rest, _AT_ONCE)):
            documents = [_Open(sample, self.readers[0].limit) for sample in group]
            while waiting := [document for document in documents if not document.done]:
                self._advance(waiting)
            for document in documents:
                self._count(document)
                yield document.sample, document.spans

    def _advance(self, waiting: Sequence[_Open]) -> None:
        """Try one piece of each document, and keep those that fit everybody."""
        texts = [document.tried for document in waiting]
        limits: list[int | None] = [None] * len(texts)
        for reader in self.readers:
            rows = [
                row
                for row, text in enumerate(texts)
                if limits[row] is None and not surely_at_most(reader.limit, text)
            ]
            if not rows:
                continue
            counts, fitting = _measure(
                reader, [(waiting[row].sample.id, texts[row]) for row in rows]
            )
            for row, count, chars in zip(rows, counts, fitting, strict=True):
                if reader is self.readers[0]:
                    waiting[row].density = len(texts[row]) / max(1, count)
                if chars is not None:
                    limits[row] = chars
                    waiting[row].cause = reader
        for document, limit in zip(waiting, limits, strict=True):
            if limit is not None and not document.indivisible:
                document.shorten(limit)
                continue
            if limit is None and document.save_blanks():
                continue
            if document.cause is not None:
                self._note(document.cause, document.sample.id, fits=limit is None)
            document.keep(self.readers[0].limit)

    def _note(self, cause: Reader, sample: str, fits: bool) -> None:
        """Count a piece that is shorter for a reader, or too long all the same."""
        if not fits:
            self.tally.indivisible.setdefault(cause.name, sample)
        elif cause is not self.readers[0]:
            by = self.tally.by
            by[cause.name] = by.get(cause.name, 0) + 1

    def _count(self, document: _Open) -> None:
        tally, text = self.tally, document.sample.text
        if document.spoken:
            kept = document.spans[-1][1] if document.spans else 0
            if not _teaches(piece_of(text, (0, kept))):
                if isinstance(text, Prompted | Beside):
                    tally.lost += 1
                    return
                if learned_part(text) is not None:
                    tally.unlearned += 1
                    return
            tally.conversations += 1
            tally.prompted += isinstance(text, Prompted | Beside)
            tally.shortened += kept < len(text)
            tally.contents += len(text)
            tally.kept += kept
        else:
            tally.documents += 1
            if len(document.spans) > 1:
                tally.long += 1
                tally.pieces += len(document.spans)


class _Open:
    """A document that is being cut."""

    __slots__ = ("cause", "density", "sample", "spans", "start", "stop", "tokens")

    def __init__(self, sample: TextSample, limit: int) -> None:
        self.sample, self.spans = sample, list[Span]()
        self.start, self.stop = 0, len(sample.text)
        self.density = float(_SPARSE)
        """Characters per token of the first reader."""
        self.cause: Reader | None = None
        """Who made this piece shorter."""
        if not self.spoken and self.stop:
            self.stop = self._guess(limit, _AT_FIRST)

    @property
    def spoken(self) -> bool:
        return isinstance(self.sample.text, Conversation | Prompted | Beside)

    @property
    def done(self) -> bool:
        return self.start >= len(self.sample.text)

    @property
    def tried(self) -> str:
        return piece_of(self.sample.text, (self.start, self.stop))

    @property
    def indivisible(self) -> bool:
        return self.stop - self.start <= 1

    def keep(self, limit: int) -> None:
        """Take the piece that was tried, and try the next."""
        self.spans.append((self.start, self.stop))
        self.start, self.cause = self.stop, None
        if self.spoken:  # the rest would begin in the middle of a turn
            self.start = len(self.sample.text)
        elif not self.done:
            self.stop = self._guess(limit, _LATER)

    def shorten(self, chars: int) -> None:
        """Try a piece of at most so many characters, fewer than before."""
        chars = min(chars, self.stop - self.start - 1)
        if not self.spoken:
            stop = self.start + max(1, chars)
            self.stop = best_cut(self.sample.text, self.start, stop)
        elif chars > 0:
            self.stop = chars
        else:  # the template alone is too long
            self.start = len(self.sample.text)

    def save_blanks(self) -> bool:
        """Try a shorter piece where nothing but blanks would be left behind this one.

        Returns:
            Whether there is one that leaves a word to stand before them.
        """
        text = self.sample.text
        if self.spoken or self.stop == len(text) or _WORD.search(text, self.stop):
            return False
        stop = self.stop
        while stop - self.start > 1 and not _WORD.search(text, stop, self.stop):
            stop = best_cut(text, self.start, stop - 1)
        before = _WORD.search(text, self.start, stop)
        if not before or not _WORD.search(text, stop, self.stop):
            return False
        self.stop = stop
        return True

    def _guess(self, limit: int, reach: float) -> int:
        text, fitting = self.sample.text, limit * self.density
        if len(text) - self.start <= reach * fitting:
            return len(text)
        stop = self.start + max(1, int(_FILLED * fitting))
        return best_cut(text, self.start, stop)


def _measure(
    reader: Reader, texts: Sequence[tuple[str, str]]
) -> tuple[list[int], list[int | None]]:
    """Tokens of each text, and how many characters fit; None where all do.

    Args:
        reader: who reads.
        texts: each with its sample's id, for errors.
    """
    batch = _read(reader, texts)
    counts = batch.mask.sum(1)
    over = counts > reader.limit
    fitting: list[int | None] = [None] * len(texts)
    if bool(over.any()):
        last_places, chars_read = _last_held(batch), batch.complete_until
        for row in over.nonzero()[:, 0].tolist():
            after = int(counts[row]) - 1 - last_places[row]  # tokens behind the text
            place = reader.limit - after - 1
            fitting[row] = int(chars_read[row, place]) if place >= 0 else 0
    return counts.tolist(), fitting


def _read(reader: Reader, texts: Sequence[tuple[str, str]]) -> TokenBatch:
    try:
        return reader.read([text for _, text in texts])
    except InputError as error:
        if len(texts) == 1:
            raise InputError(f"{reader.name}: {texts[0][0]}: {error}") from error
    for pair in texts:  # name the text that it is about
        _read(reader, [pair])
    raise AssertionError(f"{reader.name} refuses texts together, but none alone")


def _last_held(batch: TokenBatch) -> list[int]:
    """The place of each row's last token that holds text, -1 where none does."""
    places = batch.has_text.cumsum(1).argmax(1)
    row_has_text = batch.has_text.any(1)
    return [int(p) if ok else -1 for p, ok in zip(places, row_has_text, strict=True)]


def piece_of(text: str, span: Span) -> str:
    """One piece of a text: a conversation's front, a text, or a fragment of one."""
    start, stop = span
    if isinstance(text, Conversation | Prompted | Beside):
        return text.cut(stop) if stop < len(text) else text
    if start == 0 and stop == len(text):
        return text
    return _part(text, span, stop == len(text))


def pieces_of(sample: TextSample, spans: Sequence[Span]) -> list[TextSample]:
    """The pieces of a sample, those left out that blanks fill from end to end.

    A prompt without anything of its completion, and a conversation without anything
    of what is learned of it, are left out, too: nothing is learned from them, and
    nothing measured.

    Their ids add ``#0``, ``#1`` and so on where there are several.
    """
    text = sample.text
    if isinstance(text, Conversation | Prompted | Beside) or len(spans) == 1:
        parts = [piece_of(text, span) for span in spans]
        return [replace(sample, text=part) for part in parts if _teaches(part)]
    filled = [n for n, (start, stop) in enumerate(spans) if text[start:stop].strip()]
    out = []
    for number in filled:
        last = number == filled[-1]  # blanks behind it are no text that goes on
        part = _part(text, spans[number], last)
        out.append(replace(sample, text=part, id=f"{sample.id}#{number}"))
    return out


def _teaches(text: str) -> bool:
    """Whether a text has anything but blanks to learn."""
    if isinstance(text, Conversation):
        return text.teaches
    return bool((text.completion if isinstance(text, Prompted) else text).strip())


def _part(text: str, span: Span, last: bool) -> str:
    """A stretch of a text; the last one ends where the text does, if that ends."""
    part = text[slice(*span)]
    return part if last and ends(text) else Fragment(part)
