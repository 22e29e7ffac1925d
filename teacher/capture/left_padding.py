"""Tell a model where a text begins that has its padding on the left.

Some models take positions, some count real tokens by the mask or by the padding id,
some need no positions. Which of these a model does right is tried, not looked up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from align.errors import InputError
from align.kv import KV

Read = Callable[[Tensor, Tensor, Tensor | None], KV]
"""(ids, mask, positions or None) -> content KV."""
_TEXT, _PADDING = 5, 2


def is_left_padded(mask: Tensor) -> bool:
    """Whether any row of mask (B, T) begins with padding and holds a text."""
    return bool((mask.any(1) & ~mask[:, 0]).any())


def counted(mask: Tensor) -> Tensor:
    """(B, T) int64 positions, 0 at the first real token and before it."""
    return (mask.long().cumsum(1) - 1).clamp_min(0)


def learn_positions(
    read: Read, takes_positions: bool, vocabulary: int, padding_id: int
) -> bool:
    """Find out how a model reads a left-padded text as if it stood alone.

    Args:
        read: runs the model without gradient, in evaluation mode, on the CPU's ids.
        takes_positions: whether positions may be given at all.
        vocabulary: number of ids.
        padding_id: what stands in place of a text.

    Returns:
        Whether positions must be given; False where the model manages itself.

    Raises:
        ValueError: neither gives the keys and values of the text alone.
    """
    text = (torch.arange(_TEXT) + padding_id + 1) % vocabulary
    ids = torch.cat([torch.full((_PADDING,), padding_id), text])[None]
    mask = (torch.arange(_PADDING + _TEXT) >= _PADDING)[None]
    alone = read(ids[:, _PADDING:], mask[:, _PADDING:], None)
    for with_positions in (True, False):
        if with_positions and not takes_positions:
            continue
        padded = read(ids, mask, counted(mask) if with_positions else None)
        if _same(padded.k[..., _PADDING:, :], alone.k) and _same(
            padded.v[..., _PADDING:, :], alone.v
        ):
            return with_positions
    raise InputError("counts padding on the left as text; pad on the right")


def _same(states: Tensor, expected: Tensor) -> bool:
    rounding = 1e-3 if states.dtype in (torch.float32, torch.float64) else 5e-2
    difference = (states.float() - expected.float()).norm()
    return bool(difference <= rounding * expected.float().norm())
