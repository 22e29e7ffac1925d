"""What is the mean of features, and how far they spread."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Spread:
    """Mean and standard deviation of channels, in one pass over a sample."""

    def __init__(self) -> None:
        """Start empty."""
        self.n = 0
        self._sum: Any = 0.0
        self._squares: Any = 0.0
        self._shift: Any = None

    def update(self, x: Tensor) -> None:
        """Add features (L, N, C)."""
        if not x.shape[1]:
            return
        x = x.double()
        if self._shift is None:
            self._shift = x.mean(1, keepdim=True)
        x = x - self._shift  # so that large offsets lose nothing
        self.n += x.shape[1]
        self._sum, self._squares = (
            self._sum + x.sum(1),
            self._squares + x.square().sum(1),
        )

    @property
    def mean(self) -> Tensor:
        """(L, C) float64."""
        return torch.as_tensor(self._shift[:, 0] + self._sum / self.n)

    @property
    def std(self) -> Tensor:
        """(L, C) float64 > 0; of constant channels that of the layer, or 1."""
        variance = self._squares / self.n - (self._sum / self.n).square()
        typical = variance.mean(1, keepdim=True)
        variance = torch.where(variance > 1e-6 * typical, variance, typical)
        return torch.where(variance > 1e-12, variance, 1.0).sqrt()
