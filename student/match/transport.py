"""Match all tokens of a text with all tokens of it in the teacher, in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from student.match.distance import by_known
from student.output.transport.sequence import sequence_transport


@dataclass(frozen=True, kw_only=True, slots=True)
class Transport:
    """Least cost of moving a text's student tokens onto its teacher's.

    By features alone, so that neither place nor vocabulary counts; every token costs
    what its text costs.

    Source:
        :func:`student.output.transport.sequence.sequence_transport`.
    """

    per_token: ClassVar[bool] = True
    equal_widths: ClassVar[bool] = True
    cost: Literal["cosine", "squared"] = "cosine"
    """1 - cosine, or the squared distance per channel."""

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`student.match.distance.Distance.__call__`."""
        return by_known(self._apart, pred, target, weight)

    def _apart(self, pred: Tensor, target: Tensor, known: Tensor) -> Tensor:
        each = [
            sequence_transport(x, y, known, known, cost=self.cost, reduction="none")
            for x, y in zip(pred, target, strict=True)
        ]
        return torch.stack(each)[..., None].to(pred.dtype) * known
