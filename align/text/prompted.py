"""A text whose beginning is given and whose rest is to be learned."""

from __future__ import annotations

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
