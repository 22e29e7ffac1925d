"""Any loss of next-token logits through a head, a block of tokens at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from align.products.autocast import without_autocast
from align.views import LinearHead
from student.output.divergence.linear import (
    BLOCK,
    HeadGradients,
    LogitBuffer,
    blocks,
    check_head,
    product_dtype,
)
from student.output.divergence.rows import times_

BlockLoss = Callable[[Tensor, Tensor, slice], Tensor]
"""(n, V) logits, (n,) of ``beside`` and the rows they are -> a scalar, differentiable
in both."""


def linear_blocks(
    hidden: Tensor,
    head: LinearHead,
    loss: BlockLoss,
    beside: Tensor | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Sum a loss over blocks of logits, none of which outlives its block.

    Args:
        hidden: (N, C) float.
        head: (V, C).
        loss: of one block; everything else it reads stands still.
        beside: (N,) float that the loss also depends on, with its own gradient.
        block: rows whose logits are held at once, >= 1.

    Returns:
        A scalar in float32 (float64 for float64 hidden states), with gradients to
        ``hidden``, the head and ``beside``, found block by block in the forward.

    Raises:
        ValueError: shapes do not belong together.
    """
    check_head("hidden", hidden, head)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    if beside is None:
        beside = hidden.new_zeros(len(hidden), dtype=wide)
    if beside.shape != hidden.shape[:1]:
        raise ValueError(
            f"beside has shape {tuple(beside.shape)} for {len(hidden)} rows of hidden "
            "states; give one number a row"
        )
    plan = _Plan(loss, block, product_dtype(hidden, head), wide)
    out: Tensor = _Blocks.apply(hidden, head.weight, head.bias, beside, plan)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Everything that is not differentiated."""

    loss: BlockLoss
    block: int
    dtype: torch.dtype
    """Of the matrix products."""
    wide: torch.dtype
    """Of the logits."""


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        beside: Tensor,
        plan: _Plan,
    ) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(hidden, weight, bias, beside)
        saved = hidden, weight, bias, beside
        total, *ctx.found = _walk(plan, saved, ctx.needs_input_grad)
        return total.to(plan.wide)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.found = ctx.found, None  # given away, never copied
        if gradients is None:  # a second time through a kept graph
            _, *gradients = _walk(ctx.plan, ctx.saved_tensors, ctx.needs_input_grad)
        hidden, weight, _, _ = ctx.saved_tensors
        to_head, pulls = gradients
        by = grads[0]
        return *to_head.times_(by, hidden.dtype, weight.dtype), times_(pulls, by), None


def _walk(
    plan: _Plan, saved: Sequence[Any], wanted: Sequence[bool]
) -> tuple[Tensor, HeadGradients, Tensor]:
    """Loss (float64), gradients to the head's side, and to what is beside."""
    wanted = wanted[:4]
    hidden, weight, bias, beside = saved
    gradients = HeadGradients.zeros(wanted[:3], hidden, weight, bias)
    beside, pulls = beside.detach(), torch.zeros_like(beside)
    head = LinearHead(weight.detach().to(plan.dtype), bias)
    buffer = LogitBuffer(min(plan.block, len(hidden)), head.size, plan.wide)
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    with torch.no_grad(), without_autocast(hidden):
        for rows in blocks(len(hidden), plan.block):
            states = hidden[rows].detach().to(plan.dtype)
            logits = buffer.fill(states, head).requires_grad_()
            other = beside[rows].requires_grad_()
            with torch.enable_grad():
                loss = plan.loss(logits, other, rows)
            total += loss.detach().double()
            if any(wanted):
                to_logits, to_other = torch.autograd.grad(
                    loss, (logits, other), allow_unused=True
                )
                gradients.add(rows, to_logits, states, head.weight, buffer)
                if to_other is not None:
                    pulls[rows] = to_other
    return total, gradients, pulls
