"""A key distance that learns how much of it is noise."""

import torch
from torch import Tensor, nn

from student.objective import StepContext
from student.places import Places


class UncertainKeys(nn.Module):
    """Squared distance over a learned variance, plus its logarithm.

    Source: Kendall, Gal and Cipolla 2018 (arXiv 1705.07115), eq. 7, times two.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, *, variance: float = 1.0) -> None:
        super().__init__()
        if variance <= 0:
            raise ValueError(f"variance must be > 0, got {variance}")
        self.log_variance = nn.Parameter(torch.tensor(float(variance)).log())

    def count(self, places: Places) -> list[float]:
        return [float(places.compared.sum())]

    def forward(self, ctx: StepContext) -> Tensor:
        total, weight = ctx.zero(), ctx.zero()
        for pair in ctx.comparisons:
            apart = pair.distance("k")  # (L, B, T)
            apart = apart * torch.exp(-self.log_variance) + self.log_variance
            total = total + (apart * pair.weight).sum() / len(apart)
            weight = weight + pair.weight.expand_as(apart).sum() / len(apart)
        return total / ctx.total(0, weight)
