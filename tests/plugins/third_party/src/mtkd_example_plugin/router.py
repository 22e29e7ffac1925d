"""Weights as the mean of a Dirichlet distribution."""

import torch
from torch import Tensor, nn

from align.errors import InputError


class DirichletRouter(nn.Module):
    """Learns concentrations, so that more evidence sharpens its weights."""

    def __init__(
        self, hidden_dim: int, num_teachers: int, *, prior: float = 1.0
    ) -> None:
        super().__init__()
        if not prior > 0:
            raise InputError(f"dirichlet takes prior > 0, got {prior}")
        self.prior = prior
        self.norm = nn.LayerNorm(hidden_dim)
        self.evidence = nn.Linear(hidden_dim, num_teachers)

    def forward(self, query: Tensor) -> Tensor:
        query = query.to(self.evidence.weight.dtype)
        evidence = nn.functional.softplus(self.evidence(self.norm(query)).float())
        concentration = self.prior + evidence
        return concentration / torch.sum(concentration, dim=-1, keepdim=True)
