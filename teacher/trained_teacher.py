"""A model that trains as a teacher of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from align.reading import Reading
from align.views import Asked, LinearHead, TeacherView
from teacher.capture.forward import evaluating
from teacher.live_teacher import LiveTeacher
from teacher.output_head import linear_head


@dataclass(frozen=True, eq=False)  # without slots: finds its head when asked for
class TrainedTeacher(LiveTeacher):
    """One whose weights belong to an optimiser: it is asked as it stands, without
    dropout, and nothing that is learned from it reaches them."""

    @cached_property
    def _own_head(self) -> LinearHead:
        return linear_head(self.capture)

    @property
    def head(self) -> LinearHead:  # type: ignore[override]
        """The head as it stands, detached: an optimiser may have moved its storage."""
        head = self._own_head
        bias = None if head.bias is None else head.bias.detach()
        return LinearHead(head.weight.detach(), bias)

    def ask(self, reading: Reading, rows: Tensor | None, asked: Asked) -> TeacherView:
        """See :meth:`LiveTeacher.ask`."""
        with evaluating(self.loaded.model):
            return super().ask(reading, rows, asked)
