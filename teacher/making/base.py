"""What a maker of students promises, and what it is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Made:
    """A student, and what of its source is in it."""

    model: Any
    """A causal ``PreTrainedModel``."""
    layers: tuple[int, ...]
    """For each of its layers, the number of the source's layer that it was."""
    done: str
    """What was done, in words."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Text by which a maker tells what matters in a model."""

    batches: tuple[tuple[Tensor, Tensor], ...]
    """(B, T) int64 ids and bool masks of the model's own tokens, padded on the right.
    """

    @staticmethod
    def of(
        tokenizer: Any, texts: Iterable[str], max_length: int = 128, size: int = 8
    ) -> Sample:
        """Encode texts.

        Args:
            tokenizer: the model's own.
            texts: at least one of two tokens or more.
            max_length: tokens of a text that are read.
            size: texts of a batch.
        """
        rows = [tokenizer(text)["input_ids"][:max_length] for text in texts]
        rows = [row for row in rows if len(row) > 1]
        parts = [rows[first : first + size] for first in range(0, len(rows), size)]
        return Sample(tuple(_padded(part) for part in parts))


class StudentMaker(Protocol):
    """Makes students of a model; a plugin of the kind ``student_maker``."""

    @property
    def needs_sample(self) -> bool:
        """Whether it looks at what the model computes."""

    def __call__(self, model: nn.Module, sample: Sample | None) -> Made:
        """Make a student.

        Args:
            model: a causal ``PreTrainedModel`` in evaluation mode; it stays as it is.
            sample: given where ``needs_sample`` is True.

        Raises:
            InputError: nothing of the kind can be made of it.
        """


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = True
    return ids, mask
