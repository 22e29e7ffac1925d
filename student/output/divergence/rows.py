"""Rows of logits: how many at a time, how much each counts, how flat it is made."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_CACHED = 2**18  # numbers a row may have to stay in a core's cache


def cached_rows(count: int, like: Tensor, step: int | None = None) -> Iterator[slice]:
    """Rows in groups that a processor's cache holds; all at once on a GPU.

    Args:
        count: rows.
        like: (., V) float.
        step: rows in a group; None: as many as the cache holds.
    """
    if step is None:
        step = max(_CACHED // max(like.shape[1], 1), 1)
        step = step if like.device.type == "cpu" else max(count, 1)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def shares(
    weight: Tensor | None,
    rows: int,
    like: Tensor,
    total: Tensor | float | None = None,
) -> Tensor:
    """(N,) weights that sum to 1, or to 0 where nothing counts; float32 or float64.

    With ``total``, > 0, they are divided by it and not by their sum.

    Raises:
        ValueError: not one weight a row.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    if weight is None and total is None:
        return torch.full((rows,), 1 / max(rows, 1), dtype=wide, device=like.device)
    if weight is None:
        weight = torch.ones(rows, device=like.device)
    if weight.shape != (rows,):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} for {rows} rows; give ({rows},)"
        )
    weight = weight.detach().to(like.device, torch.float64)
    if total is None:
        total = weight.sum()
        total = torch.where(total > 0, total, 1.0)
    return (weight / total).to(wide)


def temperatures(temperature: float | Tensor, rows: int, like: Tensor) -> Tensor:
    """(N,) temperatures, float32 or float64.

    Raises:
        ValueError: one is not > 0, or there is not one a row.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    if isinstance(temperature, Tensor):
        each = temperature.detach().to(like.device, wide)
        each = each.expand(rows) if each.dim() == 0 else each
    else:
        each = torch.full((rows,), float(temperature), dtype=wide, device=like.device)
    if each.shape != (rows,):
        raise ValueError(
            f"temperature has shape {tuple(each.shape)} for {rows} rows; give one, or "
            f"({rows},)"
        )
    if rows and not bool((each > 0).all()):
        raise ValueError(f"temperature must be > 0, got {float(each.min())}")
    return each


def times_(x: Tensor, by: Tensor) -> Tensor:
    """Times a scalar in place; where that is 1, as without a weight, not even read."""
    if by.device.type == "cpu" and float(by) == 1:
        return x
    return x.mul_(by.to(x.dtype))
