"""Dynamic weight average: what has fallen less of late pulls more."""

import torch
from torch import nn

from student.balance import Balanced, Standing


class DynamicWeightAverage(nn.Module):
    """N times a softmax over how much of its size each term kept from the pass before
    last to the last (Liu, Johns and Davison 2019)."""

    def __init__(self, names: tuple[str, ...], *, temperature: float = 2.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.temperature = temperature
        sizes = torch.zeros(2, len(names), dtype=torch.float64)
        self.register_buffer("sizes", sizes)  # of the last two passes: checkpointed

    def forward(self, standing: Standing) -> Balanced:
        earlier, last = self.sizes.to(standing.losses)
        known = (earlier > 0) & (last > 0)
        kept = torch.where(known, last / earlier.clamp_min(1e-300), 1.0)
        share = (kept / self.temperature).clamp_max(50).softmax(0) * len(kept)
        self.sizes.copy_(torch.stack([last, standing.losses.abs()]))
        return Balanced(weights=standing.weights * share)
