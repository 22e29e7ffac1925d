"""Distances between next-token distributions, and their gradients, row by row.

Notation: logits ``s`` (student) and ``t`` (teacher), temperature ``T``, probabilities
``q = softmax(s / T)`` and ``p = softmax(t / T)``. A distance of one row is scaled by
T^2, so that its gradient keeps its size as T grows.

Sources:
    forward, KL(p || q) and the factor T^2: Hinton, Vinyals and Dean 2015 (arXiv
    1503.02531). reverse, KL(q || p): Gu et al. 2024, MiniLLM (arXiv 2306.08543).
    jensen_shannon, with m = mix p + (1 - mix) q, mix KL(p || m) + (1 - mix) KL(q || m):
    Agarwal et al. 2024, GKD (arXiv 2306.13649), eq. 1.

With D the row's distance, the gradients to ``s / T`` are ``q - p`` (forward),
``q (log q/p - D)`` (reverse) and ``(1 - mix) q (log q/m - KL(q || m))``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from student.output.support import FULL, Support, fill_tail_

KINDS = ("forward", "reverse", "jensen_shannon")
_MASKED = -1e30  # stands for -inf: finite, so that its product with 0 is 0
_CACHED = 2**18  # numbers a row may have to stay in a core's cache


@dataclass(frozen=True, slots=True)
class Divergence:
    """Which distance, and over which tokens."""

    kind: str = "forward"
    """``forward``, ``reverse`` or ``jensen_shannon``."""
    mix: float = 0.5
    """The teacher's share in the mean of ``jensen_shannon``, in (0, 1)."""
    support: Support = FULL
    """Tokens that count by themselves; all others make one bucket."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ValueError: an unknown kind, or a share outside (0, 1).
        """
        if self.kind not in KINDS:
            raise ValueError(
                f"divergence is {self.kind!r}; give one of {', '.join(KINDS)}"
            )
        if not 0 < self.mix < 1:
            raise ValueError(
                f"the mixing weight must be in (0, 1), got {self.mix}; its limits are "
                "the divergences 'reverse' and 'forward'"
            )


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
    heat = temperatures(temperature, rows, student)
    loss: Tensor = _FromLogits.apply(
        student, teacher.detach(), settings or Divergence(), heat, scale
    )
    return loss


def shares(weight: Tensor | None, rows: int, like: Tensor) -> Tensor:
    """(N,) weights that sum to 1, or to 0 where nothing counts; float32 or float64.

    Raises:
        ValueError: not one weight a row.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    if weight is None:
        return torch.full((rows,), 1 / max(rows, 1), dtype=wide, device=like.device)
    if weight.shape != (rows,):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} for {rows} rows; give ({rows},)"
        )
    weight = weight.detach().to(like.device, torch.float64)
    total = weight.sum()
    return (weight / torch.where(total > 0, total, 1.0)).to(wide)


def temperatures(temperature: float | Tensor, rows: int, like: Tensor) -> Tensor:
    """(N,) temperatures, float32 or float64.

    Raises:
        ValueError: one is not > 0, or there is not one a row.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    if isinstance(temperature, Tensor):
        heat = temperature.detach().to(like.device, wide)
        heat = heat.expand(rows) if heat.dim() == 0 else heat
    else:
        heat = torch.full((rows,), float(temperature), dtype=wide, device=like.device)
    if heat.shape != (rows,):
        raise ValueError(
            f"temperature has shape {tuple(heat.shape)} for {rows} rows; give one, or "
            f"({rows},)"
        )
    if rows and not bool((heat > 0).all()):
        raise ValueError(f"temperature must be > 0, got {float(heat.min())}")
    return heat


def cached_rows(tensor: Tensor) -> Iterator[slice]:
    """Rows of a (N, V) tensor in groups that a processor's cache holds."""
    count, width = tensor.shape
    step = max(_CACHED // max(width, 1), 1) if tensor.device.type == "cpu" else count
    for start in range(0, count, max(step, 1)):
        yield slice(start, start + step)


def pull_(
    student: Tensor,
    teacher: Tensor,
    settings: Divergence,
    heat: Tensor,
    scale: Tensor,
) -> Tensor:
    """Distances of a block; its buffers become gradient and scratch.

    Args:
        student: (N, V) float32 or float64 logits, overwritten by the gradient of
            sum(scale x distance) to them.
        teacher: (N, V) logits **already divided by the temperature**, or log
            probabilities; overwritten.
        settings: which distance.
        heat: (N,) temperatures.
        scale: (N,) factors.

    Returns:
        (N,) distances, times T^2, without ``scale``.
    """
    losses = [student.new_zeros(0)]
    for rows in cached_rows(student):
        s, t, hot = student[rows], teacher[rows], heat[rows]
        s.div_(hot[:, None])
        mask_both_(s, t)
        torch.log_softmax(s, -1, out=s)
        torch.log_softmax(t, -1, out=t)
        fill_tail_(t, s, settings.support)
        losses.append(_GRADIENTS[settings.kind](s, t, settings.mix) * hot.square())
        s.mul_((hot * scale[rows])[:, None])
    return torch.cat(losses)


def mask_both_(s: Tensor, t: Tensor) -> None:
    """Leave out of both, in place, the tokens that one of them forbids (-inf)."""
    if not bool(torch.isneginf(torch.minimum(s.amin(), t.amin()))):
        return
    forbidden = torch.isneginf(s) | torch.isneginf(t)
    s.masked_fill_(forbidden, _MASKED)
    t.masked_fill_(forbidden, _MASKED)


def _forward(s: Tensor, t: Tensor, mix: float) -> Tensor:
    """Log probabilities -> distances; ``s`` becomes the gradient to s / T."""
    apart = t - s
    t.exp_()
    loss = apart.mul_(t).sum(-1)
    s.exp_().sub_(t)
    return loss


def _reverse(s: Tensor, t: Tensor, mix: float) -> Tensor:
    apart = torch.sub(s, t, out=t)
    s.exp_()
    loss = (s * apart).sum(-1)
    s.mul_(apart.sub_(loss[:, None]))
    return loss


def _jensen_shannon(s: Tensor, t: Tensor, mix: float) -> Tensor:
    middle = torch.logaddexp(t + math.log(mix), s + math.log1p(-mix))
    to_teacher = ((t - middle) * t.exp()).sum(-1)
    apart = torch.sub(s, middle, out=middle)
    s.exp_()
    to_student = (s * apart).sum(-1)
    s.mul_(apart.sub_(to_student[:, None])).mul_(1 - mix)
    return mix * to_teacher + (1 - mix) * to_student


_GRADIENTS = {
    "forward": _forward,
    "reverse": _reverse,
    "jensen_shannon": _jensen_shannon,
}


class _FromLogits(torch.autograd.Function):
    """The gradient is found in the forward, where both distributions are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        settings: Divergence,
        heat: Tensor,
        scale: Tensor,
    ) -> Tensor:
        width = min(student.shape[1], teacher.shape[1])
        gradient = torch.zeros_like(student)
        total = torch.zeros((), dtype=torch.float64, device=student.device)
        kept = scale.nonzero()[:, 0]
        wide = scale.dtype
        for some in cached_rows(student):
            rows = kept[(kept >= some.start) & (kept < some.stop)]
            s = student[rows, :width].to(wide)
            t = teacher[rows, :width].to(wide).div_(heat[rows, None])
            losses = pull_(s, t, settings, heat[rows], scale[rows])
            total += (losses.double() * scale[rows].double()).sum()
            gradient[rows, :width] = s.to(student.dtype)
        ctx.save_for_backward(gradient)
        return total.to(wide)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None, None
