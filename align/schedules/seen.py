"""What teachers and student said so far, for schedules of any number that go by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor

from align.schedules.losses import LossRecord

TOKENS, STUDENT_TOKENS, STRETCHES = "tokens", "student_tokens", "stretches"
SUMS = (
    *(TOKENS, "log_vocabulary", "teacher_entropy", "teacher_spread"),
    *(STUDENT_TOKENS, "student_spread", STRETCHES, "loss_gap"),
)
"""What of a pass is added up: three counts, and what is summed over each."""


class SeenRecord(LossRecord):
    """Moving means of what a step's outputs look like; part of a checkpoint.

    As of losses, a step counts from the next one on, however many passes and processes
    share it. Before the first one, and in an arm without teachers, a teacher is sure,
    the student no worse than it, and logits have a spread of 1: by that the built-in
    rules say ``from``.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        super().__init__(SUMS)

    @property
    def _met(self) -> Tensor:
        """All sums move together, from the first step that counts anything: one that is
        0 is known where its count is not, and a mean is that of sums over counts."""
        return (self.first != 0).any()

    def note_sums(self, sums: Mapping[str, float], step: int) -> None:
        """Take note of one pass, over all processes; see :meth:`LossRecord.note`."""
        self.note([sums[name] for name in SUMS], step)

    def signals(self, asked: Set[str], step: int) -> dict[str, Any]:
        """Fields of :class:`.Moment` before a step, those that are asked for."""

        def mean(name: str, per: str, unknown: float = 0.0) -> float:
            count = self.mean_of(per, step)
            return self.mean_of(name, step) / count if count else unknown

        vocabulary = round(math.exp(mean("log_vocabulary", TOKENS)))
        entropy = torch.tensor(mean("teacher_entropy", TOKENS))
        spreads = (
            torch.tensor(mean("student_spread", STUDENT_TOKENS, 1.0)),
            torch.tensor(mean("teacher_spread", TOKENS, 1.0)),
        )
        gap = torch.tensor(mean("loss_gap", STRETCHES))
        known = {
            "teacher_entropy": lambda: entropy,
            "logit_spread": lambda: spreads,
            "loss_gap": lambda: gap,
        }
        fields: dict[str, Any] = {name: known[name] for name in sorted(asked)}
        return {"vocabulary": vocabulary, **fields} if asked else {}
