"""Which of a teacher's heads stands beside which of the student's.

Heads have no order between models, and other numbers of them. Who goes with whom is
found on the calibration sample and stays, so that what a step costs depends neither
on how it is cut into passes nor on which process reads what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from align.errors import InputError

Heads = Literal["mean", "groups", "each", "nearest", "hungarian"]

Cost = Callable[[Tensor, Tensor], Tensor]
"""(L, P, B, R, T) of both -> (L, P, B, R), by the rows' weights."""


class HeadPairing(nn.Module):
    """Brings the heads of two models side by side, layer by layer.

    ``mean`` compares the means of all heads; ``groups`` means of neighbouring heads,
    as many as the model with fewer has; ``each`` head i with head i; ``nearest`` each
    of the student's with the teacher's nearest one; ``hungarian`` one with one, at the
    least cost in all, the surplus of the model that has more left out.

    Source:
        ``hungarian``: :func:`scipy.optimize.linear_sum_assignment` on the sample's mean
        distances. ``groups`` at any numbers of heads are those of
        :func:`torch.nn.functional.adaptive_avg_pool1d`. Departure: recipes average
        ``H_t // H_s`` of the teacher's heads, which leaves some over at 12 and 8, or
        repeat the student's; here both sides are averaged into as many groups as the
        fewer heads are, and each head is in at least one.
    """

    def __init__(self, rule: Heads) -> None:
        """Say who goes with whom."""
        super().__init__()
        self.rule = rule
        self._teachers: tuple[str, ...] = ()

    @property
    def chosen(self) -> bool:
        """Whether the sample says who goes with whom."""
        return self.rule in ("nearest", "hungarian")

    def meet(self, student: int, teachers: Mapping[str, int], layers: int) -> None:
        """Be told how many heads there are.

        Args:
            student: H_s.
            teachers: H_t by name.
            layers: that may be compared.

        Raises:
            InputError: heads that are to go one with one are not as many.
        """
        self._teachers = tuple(teachers)
        for index, (name, heads) in enumerate(teachers.items()):
            if self.rule == "each" and heads != student:
                raise InputError(
                    f"heads: each compares head by head, but the student has {student} "
                    f"and teacher {name!r} {heads}; choose mean, groups, nearest or "
                    "hungarian"
                )
            if self.chosen:
                pairs = student if self.rule == "nearest" else min(student, heads)
                beside = torch.arange(pairs).clamp_max(heads - 1)
                both = torch.stack([torch.arange(pairs), beside])
                every = both[:, None].repeat(1, layers, 1)  # (2, L, P)
                self.register_buffer(f"partners_{index}", every)

    def partners(self, teacher: str) -> Tensor:
        """(2, L, P) int64: the student's heads, and the teacher's beside them."""
        return self.get_buffer(f"partners_{self._teachers.index(teacher)}")

    @torch.no_grad()
    def fit(self, costs: Mapping[str, Tensor]) -> None:
        """Say who goes with whom, where the rule goes by what it costs.

        Args:
            costs: by teacher (L, H_s, H_t), see :func:`costs_of_pairs`.
        """
        for name, every in costs.items():
            matched = torch.stack([self._matched(x.cpu()) for x in every], 1)
            partners = self.partners(name)
            partners.copy_(matched.to(partners.device))

    def forward(
        self, teacher: str, pred: Tensor, target: Tensor, layers: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Side by side.

        Args:
            teacher: a name.
            pred: (L', H_s, B, R, T), the student's.
            target: (L', H_t, B, R, T).
            layers: places of L' among the layers that may be compared.

        Returns:
            (L', P, B, R, T) of both.
        """
        if self.rule == "each":
            return pred, target
        if not self.chosen:
            fewest = min(pred.shape[1], target.shape[1])
            count = 1 if self.rule == "mean" else fewest
            return _pooled(pred, count), _pooled(target, count)
        student, beside = self.partners(teacher)[:, list(layers)]
        return _picked(pred, student), _picked(target, beside)

    def _matched(self, costs: Tensor) -> Tensor:
        """(H_s, H_t) -> (2, P) int64."""
        if self.rule == "nearest":
            return torch.stack([torch.arange(len(costs)), costs.argmin(1)])
        from scipy.optimize import linear_sum_assignment  # slow to import

        student, teacher = linear_sum_assignment(costs.double().numpy())
        return torch.stack([torch.as_tensor(student), torch.as_tensor(teacher)])


def costs_of_pairs(student: Tensor, teacher: Tensor, cost: Cost) -> Tensor:
    """What every head beside every other would cost, (L, H_s, H_t).

    Args:
        student: (L, H_s, B, R, T).
        teacher: (L, H_t, B, R, T), one of whose heads is tried at a time.
        cost: of heads side by side.
    """
    columns = [
        cost(student, teacher[:, head : head + 1].expand_as(student)).sum((2, 3))
        for head in range(teacher.shape[1])
    ]
    return torch.stack(columns, -1)


def _pooled(x: Tensor, count: int) -> Tensor:
    """(L, H, ...) -> (L, count, ...), means of neighbouring heads."""
    if x.shape[1] == count:
        return x
    last = x.movedim(1, -1)
    pooled = F.adaptive_avg_pool1d(last.flatten(1, -2), count)
    return pooled.unflatten(1, last.shape[1:-1]).movedim(-1, 1)


def _picked(x: Tensor, heads: Tensor) -> Tensor:
    """(L, H, ...), (L, P) -> (L, P, ...)."""
    index = heads.to(x.device).view(*heads.shape, *[1] * (x.dim() - 2))
    return x.gather(1, index.expand(-1, -1, *x.shape[2:]))
