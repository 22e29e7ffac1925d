"""Texts of two parts: a prompt with its completion, a translation beside its source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Prompted(str):
    """A prompt and its completion, written one right after the other.

    It is a ``str``, so whoever counts, compares or reports characters treats it as any
    text, and spans index it. Every model reads it as it stands, in no chat template.
    Its slices are plain strings; use :meth:`cut`.
    """

    answer: int
    """Characters of the prompt: the completion begins there."""
    goes_on: bool
    """Whether its end was cut off."""

    def __new__(cls, prompt: str, completion: str, goes_on: bool = False) -> Prompted:
        """Join them.

        Args:
            prompt: what is read.
            completion: what is learned.
            goes_on: whether its end was cut off.
        """
        text = super().__new__(cls, prompt + completion)
        text.answer, text.goes_on = len(prompt), goes_on
        return text

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What a copy in another process is made of."""
        return (self.prompt, self.completion, self.goes_on)

    @property
    def prompt(self) -> str:
        """What is read."""
        return str.__getitem__(self, slice(None, self.answer))

    @property
    def completion(self) -> str:
        """What is learned."""
        return str.__getitem__(self, slice(self.answer, None))

    def cut(self, chars: int) -> Prompted:
        """The front of it, without its end.

        Args:
            chars: most characters that are left, >= 0.
        """
        goes_on = self.goes_on or chars < len(self)
        return Prompted(self.prompt[:chars], self[self.answer : chars], goes_on)


Link = tuple[int, int, int, int]
"""A word and a word of which it is the translation: [start, end) of the former in a
text, then [start, end) of the latter in what teachers read."""


class Beside(str):
    """A translation, which the student reads, beside its source, which teachers read.

    It is a ``str``, the translation alone, so whoever counts, compares or reports
    characters treats it as any text. Its slices are plain strings; use :meth:`cut`.
    """

    other: str
    """The source."""
    links: tuple[Link, ...] | None
    """Which words translate which; None where that is not known."""
    goes_on: bool
    """Whether its end was cut off."""

    def __new__(
        cls,
        text: str,
        other: str,
        links: Sequence[Link] | None = None,
        goes_on: bool = False,
    ) -> Beside:
        """Put them beside each other.

        Args:
            text: what the student reads and learns.
            other: what teachers read.
            links: of their words.
            goes_on: whether the end of ``text`` was cut off.
        """
        made = super().__new__(cls, text)
        made.other, made.goes_on = other, goes_on
        made.links = None if links is None else tuple(links)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What a copy in another process is made of."""
        return (str(self), self.other, self.links, self.goes_on)

    def cut(self, chars: int) -> Beside:
        """The front of it, without its end, beside the whole source.

        Args:
            chars: most characters that are left, >= 0; links of words behind them go.
        """
        links = self.links and tuple(x for x in self.links if x[1] <= chars)
        return Beside(
            self[:chars], self.other, links, self.goes_on or chars < len(self)
        )


def read_by_teachers(texts: Sequence[str]) -> list[str]:
    """The texts as teachers are asked about them: of a :class:`Beside` the source."""
    return [text.other if isinstance(text, Beside) else text for text in texts]
