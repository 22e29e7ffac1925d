"""A router that learns one weight a teacher, the same for all text."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConstantRouter(nn.Module):
    """Softmax of one learned number a teacher; all alike at the start.

    Source:
        Seed table 2-20: ``w = softmax(α)``, α learned and global.
    """

    def __init__(self, hidden_dim: int, num_teachers: int) -> None:
        """Begin with equal weights.

        Args:
            hidden_dim: C, which plays no part.
            num_teachers: M.
        """
        super().__init__()
        self.score = nn.Parameter(torch.zeros(num_teachers))

    def forward(self, query: Tensor) -> Tensor:
        """(..., C) float -> (..., M) float32."""
        return self.score.float().softmax(-1).expand(*query.shape[:-1], -1)
