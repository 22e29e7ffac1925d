"""Attention probabilities of a few query positions, without the T x T map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def attention_rows(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
    rows: Tensor,
    causal: bool,
) -> Tensor:
    """Probabilities of the asked query rows, averaged over heads.

    Args:
        query: (B, H_q, T, D) as the model attends, rotated.
        key: (B, H, T, D), H dividing H_q.
        mask: None, or (B or 1, 1 or H_q, T, T), bool (True = may attend) or float
            (added to the scores), or as flash attention takes it (B, T), nonzero on
            real tokens.
        options: what the model passed on: ``scaling``, ``softcap``,
            ``position_bias`` (1 or B, H_q, T, T), ``sliding_window``.
        rows: (B, R) int64 in [0, T).
        causal: a query reads no later key; only used where ``mask`` does not say.

    Returns:
        (B, R, T) float32, rows sum to 1.

    Raises:
        ValueError: the model mixes attention sinks into its softmax.

    Source:
        softmax(Q Kᵀ · scaling + bias), Vaswani et al. 2017; soft cap of the
        scores, Gemma 2 (2024).
    """
    if options.get("s_aux") is not None:
        raise ValueError(
            "attention rows of a model with attention sinks do not sum to 1 over its "
            "tokens; leave attention_rows out for this model"
        )
    batch, heads, _, size = query.shape
    tokens = key.shape[2]
    picked = _pick(query, rows, size).float()  # (B, H_q, R, D)
    scaling = options.get("scaling")
    picked = picked * (size**-0.5 if scaling is None else scaling)
    grouped = picked.reshape(batch, key.shape[1], -1, size)  # (B, H, g * R, D)
    scores = grouped @ key.float().transpose(2, 3)
    scores = scores.view(batch, heads, rows.shape[1], tokens)
    if options.get("softcap") is not None:
        scores = torch.tanh(scores / options["softcap"]) * options["softcap"]
    if options.get("position_bias") is not None:
        bias = options["position_bias"].expand(batch, -1, -1, -1)
        scores = scores + _pick(bias, rows, tokens).float()
    if mask is not None and mask.ndim == 4:
        allowed = _pick(mask.expand(batch, -1, -1, -1), rows, tokens)
        if allowed.dtype != torch.bool:
            return (scores + allowed.float()).softmax(dim=-1).mean(dim=1)
    else:
        allowed = _readable(mask, rows, tokens, causal, options.get("sliding_window"))
    scores = scores.masked_fill(~allowed, float("-inf"))
    return scores.softmax(dim=-1).mean(dim=1)


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
