"""Put features of any scale on one: zero mean, unit variance per layer and channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardizer(nn.Module):
    """(x - mean) / std with constants of the calibration sample.

    The constants never follow the features they standardise: a scale that did
    would let both sides of a loss shrink together.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: int, width: int) -> None:
        """Start as the identity for (layers, ..., width) features."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(layers, width))
        self.register_buffer("std", torch.ones(layers, width))

    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Take (L, C) constants of any dtype; std > 0."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, x: Tensor) -> Tensor:
        """(L, B, T, C) any float -> float32 of the same shape."""
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        return (x.float() - mean).mul_(1 / std)

    def layer(self, index: int, x: Tensor) -> Tensor:
        """:meth:`forward` for one layer's features (..., C)."""
        return (x.float() - self.mean[index]).mul_(1 / self.std[index])

    def undo(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`forward`."""
        return x.float() * self.std[:, None, None] + self.mean[:, None, None]
