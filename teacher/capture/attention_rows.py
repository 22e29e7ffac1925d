"""Attention probabilities of a few query positions, without the T x T map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from align.errors import InputError
from align.products.autocast import without_autocast


def attention_rows(
    query: Tensor,
    key: Tensor,
    bias: Tensor,
    options: dict[str, Any],
    rows: Tensor,
) -> Tensor:
    """Probabilities of the asked query rows.

    Args:
        query: (B, H_q, T, D) as the model attends, rotated.
        key: (B, H, T, D), H dividing H_q.
        bias: of these rows, by :func:`row_bias`.
        options: what the model passed on: ``scaling``, ``softcap``,
            ``position_bias`` (1 or B, H_q, T, T).
        rows: (B, R) int64 in [0, T).

    Returns:
        (B, H_q, R, T) float32, rows sum to 1.

    Raises:
        ValueError: the model mixes attention sinks into its softmax.

    Source:
        softmax(Q Kᵀ · scaling + bias), Vaswani et al. 2017; soft cap of the
        scores, Gemma 2 (2024).
    """
    if options.get("s_aux") is not None:
        raise InputError(
            "attention rows of a model with attention sinks do not sum to 1 over its "
            "tokens; leave attention_rows out for this model"
        )
    batch, heads, _, size = query.shape
    tokens = key.shape[2]
    picked = _pick(query, rows, size).float()  # (B, H_q, R, D)
    scaling = options.get("scaling")
    picked = picked * (size**-0.5 if scaling is None else scaling)
    grouped = picked.reshape(batch, key.shape[1], -1, size)  # (B, H, g * R, D)
    # a product copies what does not lie in a row, and transposed if it may
    with without_autocast(query):
        scores = grouped @ key.float().contiguous().mT
    scores = scores.view(batch, heads, rows.shape[1], tokens)
    if options.get("softcap") is not None:
        scores = torch.tanh(scores / options["softcap"]) * options["softcap"]
    if options.get("position_bias") is not None:
        positions = options["position_bias"].expand(batch, -1, -1, -1)
        scores = scores + _pick(positions, rows, tokens).float()
    return (scores + bias).softmax(dim=-1)


def row_bias(
    mask: Tensor | None, rows: Tensor, tokens: int, causal: bool, window: int | None
) -> Tensor:
    """What the mask adds to the scores of the asked rows.

    Args:
        mask: None, or (B or 1, 1 or H_q, T, T), bool (True = may attend) or float
            (added to the scores), or as flash attention takes it (B, T), nonzero on
            real tokens.
        rows: (B, R) int64 in [0, T).
        tokens: T.
        causal: a query reads no later key; only used where ``mask`` does not say.
        window: how far a query reads, likewise.

    Returns:
        (B, 1 or H_q, R, T) float32.
    """
    if mask is not None and mask.ndim == 4:
        allowed = _pick(mask.expand(len(rows), -1, -1, -1), rows, tokens)
        if allowed.dtype != torch.bool:
            return allowed.float()
    else:
        allowed = _readable(mask, rows, tokens, causal, window)
    closed = torch.zeros(allowed.shape, device=rows.device)
    return closed.masked_fill_(~allowed, float("-inf"))


def _readable(
    mask: Tensor | None, rows: Tensor, tokens: int, causal: bool, window: int | None
) -> Tensor:
    """(B, 1, R, T) bool, where only padding is said."""
    distance = rows[..., None] - torch.arange(tokens, device=rows.device)  # (B, R, T)
    allowed = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        allowed = allowed & (distance.abs() < window)
    if mask is not None:
        allowed = allowed & mask[:, None].bool()
    return allowed[:, None]


def _pick(x: Tensor, rows: Tensor, width: int) -> Tensor:
    index = rows[:, None, :, None].expand(-1, x.shape[1], -1, width)
    return x.gather(2, index)
