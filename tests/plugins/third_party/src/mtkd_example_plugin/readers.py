"""A router that learns nothing: whoever reads the sample best has most to say."""

import torch
from torch import Tensor, nn

from fuse import RoutingSample


class ReadersRouter(nn.Module):
    """Shares by how many bits each teacher needs for the calibration sample."""

    learns = False
    needs_sample = True

    def __init__(
        self, hidden_dim: int, num_teachers: int, *, sharpness: float = 1.0
    ) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.register_buffer("shares", torch.full((num_teachers,), 1 / num_teachers))

    def fit(self, sample: RoutingSample) -> None:
        bits = sample.bits.nanmean(0)  # NaN where a teacher has no loss at all
        bits = torch.where(bits.isnan(), bits.nanmean(), bits).nan_to_num(0.0)
        self.shares.copy_((-self.sharpness * bits).softmax(0))

    def forward(self, query: Tensor) -> Tensor:
        return self.shares.expand(*query.shape[:-1], -1)
