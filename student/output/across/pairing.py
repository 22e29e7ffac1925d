"""Where two models' predictions can be compared, found once for all who ask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from torch.nn import functional as F

from align.tokens.batch import TokenBatch
from student.output.across.chunks import Chunks, shared_chunks
from student.output.across.predictions import same_predictions


@dataclass(frozen=True, eq=False)  # without slots: each answer is worked out once
class Pairing:
    """The student's tokens of some texts beside one teacher's."""

    student: TokenBatch
    """(B, T_s)."""
    teacher: TokenBatch
    """(B, T_t), on the student's device."""

    @cached_property
    def same(self) -> Tensor:
        """(B, T_s) int64, see :func:`.predictions.same_predictions`."""
        return same_predictions(self.student, self.teacher)

    def chunks(self, at_blanks: bool = False) -> Chunks:
        """See :func:`student.output.shared_chunks`."""
        return self._words if at_blanks else self._chunks

    @cached_property
    def _chunks(self) -> Chunks:
        return shared_chunks(self.student, self.teacher)

    @cached_property
    def _words(self) -> Chunks:
        return shared_chunks(self.student, self.teacher, at_blanks=True)

    def same_next(self, weight: Tensor) -> Tensor:
        """What counts where both predict the same token.

        Args:
            weight: (B, T_s) float32, of each token that is predicted.

        Returns:
            (B * T_s,) float32, of the place before it; 0 where they do not.
        """
        return after(weight).flatten() * (self.same.flatten() >= 0)

    def stretches(self, weight: Tensor, at_blanks: bool = False) -> Tensor:
        """(N,) what counts of each chunk: what its last token of the student's does."""
        return weight.flatten()[self.chunks(at_blanks).student.last]

    def places(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where both have read the same text and say what comes next.

        A stretch that begins a text is left out: some tokenizers put a blank before it
        that others do not know of.

        Args:
            weight: (N,) float32, of each chunk; those of 0 are left out.

        Returns:
            (P,) each: the chunk, and the place among the student's B * T_s and the
            teacher's B * T_t tokens.
        """
        chunks = self.chunks()
        student_places, teacher_places = (
            chunks.student.first - 1,
            chunks.teacher.first - 1,
        )
        read = self.student.has_text.flatten()[student_places]
        read &= self.teacher.has_text.flatten()[teacher_places]
        at = (read & (weight > 0)).nonzero()[:, 0]
        return at, student_places[at], teacher_places[at]

    def by_text(self, weight: Tensor) -> Tensor:
        """What counts of each text, where both models have tokens of it.

        Args:
            weight: (B, T_s) float32, of every token.

        Returns:
            (B,) float32, the mean over the student's tokens with text; else 0.
        """
        held = self.student.has_text
        mean = (weight * held).sum(1) / held.sum(1).clamp_min(1)
        return mean * self.teacher.has_text.any(1)


def after(x: Tensor) -> Tensor:
    """(B, T) values of the token after each; 0 after the last."""
    return F.pad(x[:, 1:], (0, 1))
