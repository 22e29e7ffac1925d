"""Log probability of given tokens through a head, without its logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from align.products.autocast import without_autocast
from align.tokens.named_head import NamedHead
from align.views import Head, LinearHead
from student.output.divergence.labels import Labels, check_labels, cross_entropy_
from student.output.divergence.linear import (
    BLOCK,
    HeadGradients,
    LogitBuffer,
    blocks,
    check_head,
    product_dtype,
)
from student.output.divergence.rows import cached_rows


def linear_log_likelihood(
    hidden: Tensor, head: Head, ids: Tensor, block: int = BLOCK
) -> Tensor:
    """Log probability of one token a row.

    Args:
        hidden: (N, C) float.
        head: (V, C), or of named tokens, then without gradients.
        ids: (N,) int64, in 0..V-1.
        block: rows whose logits are held at once, >= 1.

    Returns:
        (N,) float32 (float64 for float64 hidden states), nats, with gradients to
        ``hidden`` and the head; the backward works the logits out a second time,
        because the weights of the rows are not known before.

    Raises:
        ValueError: shapes do not belong together, or an id is outside the head.
    """
    check_head("hidden", hidden, head)
    check_labels(Labels(ids, ids), len(hidden), head.size)
    if block < 1:
        raise ValueError(f"block must be >= 1, got {block}")
    if isinstance(head, NamedHead):
        return head.log_probs(hidden, ids)
    dtype = product_dtype(hidden, head)
    out: Tensor = _LogLikelihood.apply(
        hidden, head.weight, head.bias, ids, block, dtype
    )
    return out


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        block: int,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.block, ctx.dtype = block, dtype
        ctx.save_for_backward(hidden, weight, bias, ids)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        out = hidden.new_empty(len(hidden), dtype=wide)
        head = LinearHead(weight.to(dtype), bias)
        buffer = LogitBuffer(min(block, len(hidden)), head.size, wide)
        with without_autocast(hidden):
            for rows in blocks(len(hidden), block):
                logits = buffer.fill(hidden[rows].to(dtype), head)
                for some in cached_rows(len(logits), logits):
                    s = logits[some]
                    torch.log_softmax(s, -1, out=s)
                out[rows] = logits.gather(1, ids[rows, None])[:, 0]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids = ctx.saved_tensors
        gradients = HeadGradients.zeros(ctx.needs_input_grad[:3], hidden, weight, bias)
        labels = Labels(ids, -grads[0])
        every = torch.arange(len(hidden), device=hidden.device)
        head = LinearHead(weight.to(ctx.dtype), bias)
        buffer = LogitBuffer(min(ctx.block, len(hidden)), head.size, grads[0].dtype)
        with without_autocast(hidden):
            for rows in blocks(len(hidden), ctx.block):
                block = hidden[rows].to(ctx.dtype)
                logits = buffer.fill(block, head)
                cross_entropy_(logits, labels, every[rows])
                gradients.add(rows, logits, block, head.weight, buffer)
        unit = grads[0].new_ones(())
        return *gradients.times_(unit, hidden.dtype, weight.dtype), None, None, None
