"""What is known of every text before it is learned from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from align.errors import InputError, meant

BY_TEACHER = frozenset({"teacher_bits", "teacher_entropy", "divergence"})
"""Columns that have a number a teacher."""
OF_TEACHERS = BY_TEACHER | {"disagreement"}
"""Columns for which teachers read the texts."""
OF_STUDENT = frozenset({"student_bits", "student_entropy", "divergence"})
"""Columns for which the student does."""
COLUMNS: Mapping[str, str] = {
    "length": "tokens of the student's",
    "student_bits": "bits per character that the student needs",
    "student_entropy": "bits per character that the student expects to need",
    "teacher_bits": "bits per character that each teacher needs",
    "teacher_entropy": "bits per character that each teacher expects to need",
    "divergence": "KL(student || teacher) of teachers of its vocabulary, bits per "
    "character",
    "disagreement": "spread of what the teachers give the same stretch, bits per "
    "character",
}
"""What can be measured of a text, by name."""

DIFFICULTIES: Mapping[str, frozenset[str]] = {
    "length": frozenset({"length"}),
    "teacher_bits": frozenset({"teacher_bits"}),
    "entropy": frozenset({"teacher_entropy"}),
    "divergence": frozenset({"divergence"}),
    "gap": frozenset({"teacher_bits", "student_bits"}),
    "disagreement": frozenset({"disagreement"}),
    "student_bits": frozenset({"student_bits"}),
    "student_entropy": frozenset({"student_entropy"}),
}
"""How hard a text may be called, each with the columns that it is computed from."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scores:
    """What was measured of N texts, in their order, by one student and M teachers.

    What nobody knows is NaN: of a text without a character to predict, or by a teacher
    that cannot say. What nobody asked for is no column.
    """

    domains: Sequence[str]
    """(N,) names."""
    columns: Mapping[str, Tensor]
    """Of ``COLUMNS`` those that were measured, on the processor: (N,) float64, or
    (N, M) for those of ``BY_TEACHER``."""
    teachers: Sequence[str] = ()
    """M names, in the order of the columns."""
    step: int = 0
    """Optimiser steps of the phase that the student had done."""
    before: Scores | None = field(default=None, repr=False)
    """What was measured the time before; None the first time."""

    def __post_init__(self) -> None:
        """See that every column is one of these texts.

        Raises:
            ValueError: names the column.
        """
        for name, column in self.columns.items():
            wanted = [len(self.domains)]
            wanted += [len(self.teachers)] if name in BY_TEACHER else []
            if name not in COLUMNS or list(column.shape) != wanted:
                raise ValueError(
                    f"Scores.columns[{name!r}] has shape {tuple(column.shape)} for "
                    f"{tuple(wanted)}; columns are {', '.join(COLUMNS)}"
                )

    def __len__(self) -> int:
        """N."""
        return len(self.domains)

    def difficulty(self, name: str) -> Tensor:
        """How hard each text is, (N,) float64, larger is harder.

        A teacher's numbers are averaged over the teachers that know them. ``gap`` is
        what the student needs more than they do, per character, which any tokenizers
        can be compared by; ``divergence`` is exact, of teachers of its vocabulary.

        Args:
            name: of ``DIFFICULTIES``.

        Raises:
            InputError: no such difficulty, or what it takes was not measured.
        """
        missing = needs_of(name) - self.columns.keys()
        if missing:
            raise InputError(
                f"difficulty {name!r} takes {', '.join(sorted(missing))}, which was "
                f"not measured; there is {', '.join(sorted(self.columns))}"
            )
        if name == "gap":
            return self.columns["student_bits"] - self._mean("teacher_bits")
        (column,) = DIFFICULTIES[name]
        return self._mean(column)

    def _mean(self, column: str) -> Tensor:
        values = self.columns[column]
        return values.nanmean(1) if column in BY_TEACHER else values


def needs_of(difficulty: str) -> frozenset[str]:
    """The columns that a difficulty is computed from.

    Raises:
        InputError: there is none of that name.
    """
    if difficulty not in DIFFICULTIES:
        raise InputError(
            f"no difficulty is called {difficulty!r}{meant(difficulty, DIFFICULTIES)} "
            f"Valid: {', '.join(DIFFICULTIES)}"
        )
    return DIFFICULTIES[difficulty]


def unknown_to_all(scores: Scores, needs: Collection[str]) -> list[str]:
    """Of some columns those in which no text has a number."""
    columns = {name: scores.columns[name] for name in sorted(needs)}
    return [name for name, x in columns.items() if not bool(torch.isfinite(x).any())]
