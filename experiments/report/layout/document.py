"""What a report is made of, before it is Markdown or HTML.

The run's facts are put into these types once; ``report.md`` and ``report.html`` are two
ways of writing the same document. Text is held as it is: who writes it escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["code", "strong", "em", "good", "poor", "bad"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A few words that stand out."""

    kind: Kind
    """How: the last three colour a verdict where there are colours."""
    text: str


Phrase = str | Mark | Sequence["str | Mark"]
"""Words of one line, some of them marked."""


def code(text: str) -> Mark:
    """A name as it is typed."""
    return Mark("code", text)


def strong(text: str) -> Mark:
    """Words that carry the sentence."""
    return Mark("strong", text)


def parts(phrase: Phrase) -> list[str | Mark]:
    """A phrase as a list, whichever form it has."""
    return [phrase] if isinstance(phrase, str | Mark) else list(phrase)


def plain(phrase: Phrase) -> str:
    """The words alone."""
    return "".join(
        part if isinstance(part, str) else part.text for part in parts(phrase)
    )


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Sentences."""

    phrase: Phrase


@dataclass(frozen=True, slots=True)
class Items:
    """A list of phrases."""

    phrases: Sequence[Phrase]


@dataclass(frozen=True, slots=True)
class Figures:
    """Key figures: what, how much, and beside what."""

    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under heads; the first column names the row."""

    title: str
    """What it shows, for who cannot see where it stands."""
    heads: Sequence[str]
    rows: Sequence[Sequence[Phrase]]
    numbers_from: int = 1
    """The first of the columns that hold numbers."""


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to be copied, and their language."""

    text: str
    language: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the run's folder ``figures``, by its file's name without ending."""

    stem: str
    caption: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt, and what the student made of it."""

    prompt: str
    before: str
    """By the student that the run began with."""
    after: str
    """By the run's student."""


Block = Paragraph | Items | Figures | Table | Code | Picture | Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]
    warns: bool = False
    """Whether it is what a reader must see first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A whole report."""

    title: str
    """The run's name."""
    lead: Sequence[Block]
    """The verdict, before any heading."""
    sections: Sequence[Section]
    footer: Sequence[Phrase]
    """What the run was made with, sentence by sentence."""
