"""A distance between directions, and a projector that all layers share."""

import torch
from torch import Tensor, nn


class Chordal:
    """Length of the chord between two points of the unit sphere, to a power."""

    per_token = True
    equal_widths = True

    def __init__(self, *, power: float = 2.0) -> None:
        self.power = power

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        cosine = torch.cosine_similarity(pred, target, dim=-1, eps=1e-6)
        return (2 - 2 * cosine).clamp_min(1e-9) ** (self.power / 2)


class Shared(nn.Module):
    """One linear map for all layers."""

    def __init__(self, student: int, teacher: int, layers: int) -> None:
        super().__init__()
        self.map = nn.Linear(student, teacher)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x.to(self.map.weight.dtype))
