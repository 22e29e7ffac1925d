"""When a phase ends before its steps are done."""

from __future__ import annotations

from dataclasses import dataclass

from align.support.field_types import AtLeastOne, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStopConfig:
    """When a phase ends before its steps are done."""

    metric: str | None = None
    """A metric of what ``eval.use`` names, measured every ``eval.every`` steps; null:
    all steps are done. Every arm ends by its own."""
    patience: AtLeastOne = 3
    """Measurements in a row without a better one after which it ends."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: a value that its type does not take.
        """
        check_fields(self, "train.early_stop")
