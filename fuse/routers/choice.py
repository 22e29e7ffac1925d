"""Of weights over teachers, which of them count: ``fuse.choice``."""

from __future__ import annotations

import torch
from torch import Tensor

from fuse.beforehand.choose import drawn, greatest
from fuse.config import HARD, SAMPLED, SOFT, TOP_K


def choose(
    weights: Tensor, choice: str, *, k: int = 1, draws: Tensor | None = None
) -> Tensor:
    """Let some of the teachers count, at each place by itself.

    Args:
        weights: (..., M) float >= 0, summing to 1 over M, or to 0 where there is none.
        choice: ``soft``, all as they are; ``hard``, the greatest alone, of equal ones
            the first; ``sampled``, one that is drawn by the weights; ``top_k``, the k
            greatest in their shares.
        k: >= 1, of ``top_k``.
        draws: (...) float64 in [0, 1), broadcast, of ``sampled``.

    Returns:
        (..., M) float32, summing to 1, or to 0 as before. Of one that is chosen alone
        the gradient is that of its weight in ``weights``, as if nothing had been chosen
        (straight-through).

    Raises:
        ValueError: ``sampled`` without draws.

    Source:
        Straight-through: Bengio, Leonard and Courville 2013 (arXiv 1308.3432), section
        4, here of a categorical choice. Seed table 3-80. Departure: shares of scores
        that may be negative are no probabilities; these weights are.
    """
    soft = weights.float()
    if choice == SOFT:
        return soft
    with torch.no_grad():
        if choice == SAMPLED:
            if draws is None:
                raise ValueError("fuse.choice=sampled has no draws; give one a place")
            kept = drawn(soft, draws)
        else:
            kept = greatest(soft, k if choice == TOP_K else 1)
    if choice == TOP_K:
        left = soft * kept
        total = left.sum(-1, keepdim=True)
        return left / torch.where(total > 0, total, torch.ones_like(total))
    assert choice in (HARD, SAMPLED), choice
    alone = kept.float()
    return alone + (soft - soft.detach()) if soft.requires_grad else alone
