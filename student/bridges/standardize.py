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
        scale, shift = self._scale_and_shift()
        return torch.addcmul(shift[:, None, None], x.float(), scale[:, None, None])

    def layer_(self, index: int, x: Tensor) -> Tensor:
        """:meth:`forward` for one layer's features (..., C) float32, in place."""
        scale, shift = self._scale_and_shift()
        return torch.addcmul(shift[index], x, scale[index], out=x)

    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Both (L, C): with them one pass over memory will do."""
        scale = 1 / self.std
        return scale, -self.mean * scale

    def one_scale(self) -> None:
        """Divide all channels of a layer by one number in place of one each.

        By the root of their mean variance, so that the mean square of a layer's
        features stays 1 and channels keep their sizes beside each other: those that
        hardly vary weigh little.

        Source:
            Ranzinger et al. 2024, PHI-S (arXiv 2410.01680), on one scale a teacher.
            Departure: without the Hadamard rotation, which no squared distance feels.
        """
        self.std.copy_(self.std.square().mean(1, keepdim=True).sqrt())

    def sizes(self) -> Tensor:
        """(L, C) > 0: times these, channels keep their sizes beside each other.

        Standardised features times them are those divided by :meth:`one_scale`.
        """
        return self.std / self.std.square().mean(1, keepdim=True).sqrt()

    def undo(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`forward`."""
        return x.float() * self.std[:, None, None] + self.mean[:, None, None]
