"""Settings of texts that a model writes while phases train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from align.errors import InputError
from align.support.field_types import AtLeastOne, Positive, Share, check_fields

STUDENT = "student"
"""Who writes where no teacher does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenConfig:
    """Texts that are written in place of some of the given ones, where teachers teach;
    CE only keeps the given ones."""

    by: str | None = None
    """Who writes: ``student``, as it stands (on-policy distillation: teachers then say
    what they think of its text, and no next-token loss has it write so again), or a
    teacher (its text is learned as any other). null: nobody."""
    share: Share = 0.5
    """Share of the texts that are written, evenly spread over batches; 0 is the run
    without them, bit for bit."""
    every: AtLeastOne = 50
    """Optimiser steps for which one buffer of texts is read; then another is written.
    """
    texts: AtLeastOne | None = None
    """Texts begun for a buffer at most; each is read again where more are wanted. null:
    as many as are wanted, so that none is read twice."""
    writer: str | dict[str, Any] = "sample"
    """How tokens are chosen, a registered writer: ``greedy``, ``sample``, ``beam``,
    ``diverse`` or a plugin's. With options ``{use: NAME, option: value}``."""
    temperature: Positive | None = None
    """Short for the writer's option of that name."""
    opening_tokens: AtLeastOne = 16
    """Of the text that it stands in for, by the writer's tokenizer, it begins with so
    many; of a shorter one with half. A conversation's last answer is written anew."""
    max_new_tokens: AtLeastOne = 64
    """Tokens written at most."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value that its type does not take, or a temperature twice.
        """
        check_fields(self, "data.written")
        if self.temperature is not None and "temperature" in self.chosen:
            raise InputError(
                f"data.written.temperature is {self.temperature}, and "
                "data.written.writer says one, too; give one of them"
            )

    @property
    def on(self) -> bool:
        """Whether anything is written."""
        return self.by is not None and self.share > 0

    @property
    def own(self) -> bool:
        """Whether the student writes."""
        return self.by == STUDENT

    @property
    def chosen(self) -> dict[str, Any]:
        """``writer`` in full: its name as ``use``, and options beside it."""
        return {"use": self.writer} if isinstance(self.writer, str) else self.writer

    @property
    def way(self) -> dict[str, Any]:
        """The same with the temperature."""
        warmth = {} if self.temperature is None else {"temperature": self.temperature}
        return {**self.chosen, **warmth}
