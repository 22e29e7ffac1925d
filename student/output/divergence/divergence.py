"""Distance between next-token distributions whose logits are at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from student.output.divergence.row_divergence import (
    Divergence,
    by_single_rows,
    forward_kl_row_,
    pull_,
)
from student.output.divergence.rows import cached_rows, shares, temperatures, times_


def divergence(
    student: Tensor,
    teacher: Tensor,
    settings: Divergence | None = None,
    *,
    temperature: float | Tensor = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean distance between rows of logits that are at hand.

    Args:
        student: (N, V) float logits; the gradient goes here.
        teacher: (N, V') float logits, never differentiated. Of unequal sizes the
            first min(V, V') columns count, the rest being rows that round a head up.
        settings: which distance; None: forward KL over the whole vocabulary.
        temperature: > 0, one for all or (N,).
        weight: (N,) float >= 0; None: 1. Rows of weight 0 are not looked at.

    Returns:
        A scalar: sum of weight x distance / sum of weight, nats, in float32 (float64
        for float64 logits); 0 where all weights are 0. A token whose logit is -inf on
        either side is left out of both, and the rest renormalised.

    Raises:
        ValueError: the shapes do not belong together, or a temperature is not > 0.
    """
    if student.dim() != 2 or teacher.dim() != 2 or len(student) != len(teacher):
        raise ValueError(
            f"student logits {tuple(student.shape)} and teacher logits "
            f"{tuple(teacher.shape)} do not match; give (N, V) and (N, V')"
        )
    rows = len(student)
    scale = shares(weight, rows, student)
    row_temperature = temperatures(temperature, rows, student)
    loss: Tensor = _FromLogits.apply(
        student, teacher.detach(), settings or Divergence(), row_temperature, scale
    )
    return loss


class _FromLogits(torch.autograd.Function):
    """The gradient is found in the forward, where both distributions are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        settings: Divergence,
        row_temperature: Tensor,
        scale: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(student, teacher, row_temperature, scale)
        ctx.settings = settings
        loss, ctx.gradient = _loss_and_gradient(
            student, teacher, settings, row_temperature, scale
        )
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None  # given away, never copied
        if gradient is None:  # a second time through a kept graph
            student, teacher, row_temperature, scale = ctx.saved_tensors
            gradient = _loss_and_gradient(
                student, teacher, ctx.settings, row_temperature, scale
            )[1]
        return times_(gradient, grads[0]), None, None, None, None


def _loss_and_gradient(
    student: Tensor,
    teacher: Tensor,
    settings: Divergence,
    row_temperature: Tensor,
    scale: Tensor,
) -> tuple[Tensor, Tensor]:
    width = min(student.shape[1], teacher.shape[1])
    kept = scale.nonzero()[:, 0]
    whole = len(kept) == len(student) and width == student.shape[1]
    gradient = torch.empty_like(student) if whole else torch.zeros_like(student)
    logits = student[:, :width], teacher[:, :width]
    total = torch.zeros((), dtype=torch.float64, device=student.device)
    same = student.dtype == teacher.dtype == scale.dtype
    if (
        same
        and settings.plain
        and by_single_rows(student)
        and bool((row_temperature == 1).all())
    ):
        row_losses, kept = _row_by_row(*logits, gradient[:, :width], scale, kept)
        total += row_losses
    room = student.new_empty((2, 0, width), dtype=scale.dtype)
    for some in cached_rows(len(kept), student):
        rows, count = _as_slice(kept[some]), some.stop - some.start
        if count > room.shape[1]:
            room = student.new_empty((2, count, width), dtype=scale.dtype)
        s, t = room[0, :count], room[1, :count]
        s.copy_(logits[0][rows])
        t.copy_(logits[1][rows]).div_(row_temperature[rows, None])
        share = scale[rows]
        losses = pull_(s, t, settings, row_temperature[rows], share)
        gradient[rows, :width] = s.to(student.dtype)
        total += (losses.double() * share.double()).sum()
    return total.to(scale.dtype), gradient


def _row_by_row(
    student: Tensor, teacher: Tensor, gradient: Tensor, scale: Tensor, kept: Tensor
) -> tuple[float, Tensor]:
    """Without copying any logits: the loss, and (n,) rows that need more care."""
    total, left = 0.0, []
    room = student.new_empty(2, student.shape[1])
    for row, share in zip(kept.tolist(), scale[kept].tolist(), strict=True):
        row_loss = forward_kl_row_(
            student[row], teacher[row], gradient[row], room, share
        )
        if row_loss is None:
            left.append(row)
        else:
            total += share * row_loss
    return total, kept.new_tensor(left)


def _as_slice(rows: Tensor) -> slice | Tensor:
    """Neighbours as a slice, which copies faster than a list of rows."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows
