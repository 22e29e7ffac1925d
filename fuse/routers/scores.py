"""From what signals say of teachers to weights."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse.routers.prequential import LEAST


def before(signal: Tensor) -> Tensor:
    """(B, T, ...) at each token what the place before it says; NaN at the first."""
    first = torch.full_like(signal[:, :1], torch.nan)
    return torch.cat([first, signal[:, :-1]], 1)


def score_weights(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """Weigh teachers by scores of any sign.

    Args:
        scores: (..., M) float; NaN stands for a teacher of which nothing is known: it
            scores as the others do on average, and all alike where none is known.
        temperature: > 0; lower is sharper.

    Returns:
        (..., M) float32, softmax of scores over temperature.
    """
    known = ~scores.isnan()
    wide = scores.float().clamp_min(LEAST).where(known, 0.0)
    mean = wide.sum(-1, keepdim=True) / known.sum(-1, keepdim=True).clamp_min(1)
    return (torch.where(known, wide, mean) / temperature).softmax(-1)
