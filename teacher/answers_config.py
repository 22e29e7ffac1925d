"""Settings of what teachers' answers are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from align.support.field_types import NotNegative, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswersConfig:
    """What teachers said of a batch, kept for arms and phases that read it again.

    It changes no number: a frozen teacher says the same of the same batch.
    """

    keep: Literal["all", "none"] | list[str] = "all"
    """Live teachers whose answers are kept until the last arm has read them. Those of
    teachers with ``shard``, and of batches that nobody reads again, never are."""
    memory_gib: NotNegative = 0.5
    """Most memory for them, in each process."""
    disk_gib: NotNegative = 4.0
    """Most of the run's disk beyond that, in each process, and never more than half of
    what is free; given back when the run ends. What has no room is asked again."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value that its type does not take.
        """
        check_fields(self, "answers")

    def keeps(self, teacher: str) -> bool:
        """Whether a teacher's answers are kept."""
        if isinstance(self.keep, list):
            return teacher in self.keep
        return self.keep == "all"
