"""A key distance that learns how much of it is noise."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from student.objective import StepContext
from student.places import Places


class UncertainKeys(nn.Module):
    """Squared distance over a learned variance, plus its logarithm.

    Source: Kendall, Gal and Cipolla 2018 (arXiv 1705.07115), eq. 7, times two.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, *, variance: float | None = None) -> None:
        """Start at a variance; None: at what the calibration sample has."""
        super().__init__()
        if variance is not None and variance <= 0:
            raise ValueError(f"variance must be > 0, got {variance}")
        self.given = variance is not None
        start = 1.0 if variance is None else variance
        self.log_variance = nn.Parameter(torch.tensor(start).log())

    @torch.no_grad()
    def fit(self, sample: Iterable[StepContext]) -> None:
        """Start where the loss of the sample is least: at its mean distance."""
        if self.given:
            return
        total = weight = 0.0
        for ctx in sample:
            of_batch, weight_of_batch = self._sums(ctx, lambda apart: apart)
            total, weight = total + float(of_batch), weight + float(weight_of_batch)
        if total > 0 and weight > 0:
            self.log_variance.fill_(total / weight).log_()

    def count(self, places: Places) -> list[float]:
        return [float(places.compared.sum())]

    def forward(self, ctx: StepContext) -> Tensor:
        precision = torch.exp(-self.log_variance)
        total, weight = self._sums(ctx, lambda x: x * precision + self.log_variance)
        return total / ctx.total(0, weight)

    def _sums(self, ctx: StepContext, of) -> tuple[Tensor, Tensor]:
        """What a function of the distances comes to, and its places' weights."""
        total, weight = ctx.zero(), ctx.zero()
        for pair in ctx.comparisons:
            apart = of(pair.distance("k"))  # (L, B, T)
            total = total + (apart * pair.weight).sum() / len(apart)
            weight = weight + pair.weight.expand_as(apart).sum() / len(apart)
        return total, weight
