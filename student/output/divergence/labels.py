"""Cross-entropy with hard labels, in place on a block of logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from student.output.divergence.rows import cached_rows


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What comes next, and how much each place counts."""

    ids: Tensor
    """(N,) int64, the token that comes next."""
    weight: Tensor
    """(N,) float, already divided by what the sum is to be divided by."""
    smoothing: float = 0.0
    """Probability spread evenly over the vocabulary, in [0, 1)."""


def cross_entropy_(logits: Tensor, labels: Labels, rows: Tensor) -> Tensor:
    """Weighted loss of a block, float64; logits become the gradient to them.

    Args:
        logits: (n, V) float32 or float64, overwritten.
        labels: of all N places.
        rows: (n,) int64, the block's places.

    Source:
        Szegedy et al. 2016 (arXiv 1512.00567), sec. 7: with smoothing e the target is
        (1 - e) on the label plus e / V on every token.
    """
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    smooth, width = labels.smoothing, logits.shape[1]
    for some in cached_rows(len(logits), logits):
        s, ids = logits[some], labels.ids[rows[some], None]
        weight = labels.weight[rows[some]].to(s.dtype)
        torch.log_softmax(s, -1, out=s)
        loss = (smooth - 1) * s.gather(1, ids)[:, 0]
        if smooth:
            loss -= smooth * s.mean(-1)
        total += (loss.double() * weight.double()).sum()
        s.exp_()
        if smooth:
            s.sub_(smooth / width)
        s.scatter_add_(1, ids, s.new_full(ids.shape, smooth - 1))
        s.mul_(weight[:, None])
    return total


def check_labels(labels: Labels, rows: int, size: int) -> None:
    """See that labels fit a head.

    Args:
        labels: to be looked at.
        rows: N.
        size: V.

    Raises:
        ValueError: not one a row, an id outside the head, or smoothing out of range.
    """
    if len(labels.ids) != rows or len(labels.weight) != rows:
        raise ValueError(
            f"labels hold {len(labels.ids)} ids and {len(labels.weight)} weights for "
            f"{rows} rows; give one each"
        )
    if not 0 <= labels.smoothing < 1:
        raise ValueError(f"label smoothing must be in [0, 1), got {labels.smoothing}")
    low, high = (int(labels.ids.min()), int(labels.ids.max())) if rows else (0, 0)
    if low < 0 or high >= size:
        raise ValueError(
            f"labels reach from {low} to {high}, but the head has {size} rows; give "
            "ids of the model whose head it is"
        )
