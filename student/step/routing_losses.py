"""What a learned router is trained by beside the outcome."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.views import TeacherView
from fuse.routing_loss import EntropyRegularizer, expected_teacher_loss
from student.places import Share


def routing_losses(
    routing: Tensor,
    available: Tensor,
    views: Sequence[TeacherView],
    *,
    signal: str,
    regularizer: EntropyRegularizer | None,
    step: int,
    share: Share | None,
) -> dict[str, Tensor]:
    """The teachers' own losses under the weights, and the entropy term.

    Args:
        routing: (B, T, M) or (L, B, T, M) float32, carries the router's gradient.
        available: (B, T, M) bool, which teacher covers which token.
        views: one per teacher.
        signal: ``loss.router_signal``; ``outcome`` leaves the teachers' losses out.
        regularizer: the entropy term; None for none.
        step: optimiser steps taken in this phase.
        share: what the pass is of its optimiser step; None: it is all there is.

    Returns:
        Scalars with their weights, by name.
    """
    layers = len(routing) if routing.dim() == 4 else 1

    def total(name: str) -> float | None:
        return None if share is None else layers * share.step.terms[name][0]

    losses: dict[str, Tensor] = {}
    if signal != "outcome":
        teacher_bits = [view.bits_per_char for view in views]
        known = torch.tensor(
            [b is not None for b in teacher_bits], device=routing.device
        )
        blank = routing.new_zeros(routing.shape[-3])
        bits = torch.stack([blank if b is None else b for b in teacher_bits], -1)
        losses["teacher_loss"] = expected_teacher_loss(
            routing,
            bits[:, None].expand_as(routing),
            available & known,
            total("teacher_loss"),
        )
    if regularizer is not None:
        covered = available.any(-1)
        losses["entropy"] = regularizer.compute_loss(
            routing, step, covered, total("entropy")
        )
    return losses
