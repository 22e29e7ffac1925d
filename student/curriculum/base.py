"""What a curriculum is: from scores and a place in the phase to texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from student.curriculum.scores import Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """Which texts of a phase are asked for: those of one optimiser step."""

    seed: int
    """Of the phase; whatever is drawn follows from it and from ``first``."""
    first: int
    """How many texts of the phase come before, >= 0."""
    size: int
    """Texts of the step, over all its passes and processes, >= 1; the same in every
    step of a phase."""
    texts: int
    """That the whole phase reads, each as often as it is read."""
    since: int = 0
    """How many came before these scores were measured, <= ``first``."""

    @property
    def progress(self) -> float:
        """How far the phase has come, in [0, 1)."""
        return self.first / self.texts


class Curriculum(Protocol):
    """Says which texts are read next.

    With ``leaves_out = True`` some may never be, however long the phase is.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Columns of the scores that it reads, see ``student.curriculum.COLUMNS``."""

    def __call__(self, scores: Scores, draw: Draw) -> Sequence[int]:
        """Numbers of ``draw.size`` samples in [0, N), by nothing but what is given.

        Args:
            scores: of all N samples.
            draw: what is asked for.
        """


def leaves_out(curriculum: Any) -> bool:
    """Whether it says that it may never read some texts."""
    return bool(getattr(curriculum, "leaves_out", False))
