"""The loss of labels that count each by its own weight."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from student.objective import HiddenOutput
from student.output import Labels, linear_divergence


def label_loss(output: Tensor | HiddenOutput, ids: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of next-token cross-entropies, nats.

    Args:
        output: (B, T, V) logits, or what they come from.
        ids: (B, T) int64, the token that is to come after each; any where the weight
            is 0.
        weight: (B, T) float >= 0, already divided by what the sum is divided by.

    Returns:
        A scalar, float32, or float64 of such an output.
    """
    ids = ids.masked_fill(weight == 0, 0)  # padding may have an id beyond the head
    if isinstance(output, HiddenOutput):
        labels = Labels(ids.flatten(), weight.flatten())
        hidden = output.hidden.flatten(0, 1)
        return _wide(linear_divergence(hidden, output.head, [], labels=labels))
    losses = F.cross_entropy(_wide(output).transpose(1, 2), ids, reduction="none")
    return (losses * weight).sum()


def next_ids(ids: Tensor) -> Tensor:
    """(B, T) -> (B, T): the token after each; the first stands after the last."""
    return ids.roll(-1, 1)


def next_weight(weight: Tensor) -> Tensor:
    """(B, T) float32: what each token's prediction of the next one counts.

    Args:
        weight: (B, T) float32, of every token, see
            :func:`align.tokens.weights.label_weight`.
    """
    weight = weight.roll(-1, 1)
    weight[:, -1:] = 0
    return weight


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
