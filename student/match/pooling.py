"""Compare stretches of tokens in place of tokens."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from student.objective import LEAST


def pooled(
    pred: Tensor, target: Tensor, weight: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Means of so many tokens in a row, by weight; a stretch weighs what they weigh.

    Args:
        pred: (L, B, T, C).
        target: (L, B, T, C').
        weight: (L, B, T) >= 0; stretches are counted from the row's first token, and
            tokens without weight are in none.
        size: tokens of a stretch; 1 leaves all as it is.

    Returns:
        The same with ceil(T / size) for T.
    """
    if size == 1:
        return pred, target, weight
    short = -weight.shape[-1] % size
    parts = F.pad(weight, (0, short)).unflatten(-1, (-1, size))  # (L, B, T', size)
    whole = parts.sum(-1)
    shares = parts / whole[..., None].clamp_min(LEAST)

    def means(x: Tensor) -> Tensor:
        stretches = F.pad(x, (0, 0, 0, short)).unflatten(2, (-1, size))
        return (stretches * shares[..., None].to(x.dtype)).sum(3)

    return means(pred), means(target), whole
