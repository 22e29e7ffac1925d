"""What a command line, or a run, says of how a model writes."""

from __future__ import annotations

from dataclasses import dataclass

from align.errors import InputError
from teacher.writing.ways import Greedy, Sample, Way, check_drawing


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """How the next token is chosen, and how many of them."""

    max_new_tokens: int = 40
    """At most so many, >= 1."""
    temperature: float = 0.0
    """0 takes the likeliest token; else what logits are divided by, > 0."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this share, in (0, 1]."""
    seed: int = 0
    """Of what is drawn, in [0, 2^63)."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value out of its range.
        """
        if self.max_new_tokens < 1:
            raise InputError(
                f"max_new_tokens is {self.max_new_tokens}; give 1 or more tokens"
            )
        if not 0 <= self.temperature < float("inf"):
            raise InputError(
                f"temperature is {self.temperature:g}; give 0 for the likeliest token "
                "every time, or a number above it, such as 0.8"
            )
        if self.top_p < 1 and not self.temperature:
            raise InputError(
                f"top_p is {self.top_p} while temperature is 0, which draws nothing; "
                "set a temperature above 0, such as 0.8, or leave top_p out"
            )
        if not 0 <= self.seed < 1 << 63:
            raise InputError(f"seed is {self.seed}; give a whole number from 0 to 2^63")
        # 0 stands for no drawing at all, whose top_p is checked all the same.
        check_drawing(self.temperature or 1, self.top_p)

    @property
    def way(self) -> Way:
        """What temperature and share come to."""
        if not self.temperature:
            return Greedy()
        return Sample(temperature=self.temperature, top_p=self.top_p)
