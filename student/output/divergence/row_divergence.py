"""Distances between next-token distributions, and their gradients, row by row.

Notation: logits ``s`` (student) and ``t`` (teacher), temperature ``T``, probabilities
``q = softmax(s / T)`` and ``p = softmax(t / T)``. A distance of one row is scaled by
T^2, so that its gradient keeps its size as T grows.

Sources:
    forward, KL(p || q) and the factor T^2: Hinton, Vinyals and Dean 2015 (arXiv
    1503.02531). reverse, KL(q || p): Gu et al. 2024, MiniLLM (arXiv 2306.08543).
    jensen_shannon, with m = mix p + (1 - mix) q, mix KL(p || m) + (1 - mix) KL(q || m):
    Agarwal et al. 2024, GKD (arXiv 2306.13649), eq. 1. skew_forward, KL(p || m), and
    skew_reverse, KL(q || m): Ko et al. 2024, DistiLLM (arXiv 2402.03898), eq. 4 and 5,
    whose skew is ``mix`` in the first and ``1 - mix`` in the second.

With D the row's distance, the gradients to ``s / T`` are ``q - p`` (forward),
``q (log q/p - D)`` (reverse), ``(1 - mix) q (log q/m - KL(q || m))``,
``(1 - mix) (q sum(p q / m) - p q / m)`` (skew_forward) and ``q (g - sum(q g))`` with
``g = log q/m - (1 - mix) q / m`` (skew_reverse).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from align.support.field_types import checked
from student.output.divergence.rows import cached_rows
from student.output.divergence.support import FULL, Support, fill_tail_
from student.output.kinds import DivergenceKind

_LEAST_MASS = 1e-20  # a billionth of which is a float32 too
_LONG_ROW = 2**14
_MASKED = -1e30  # stands for -inf: finite, so that its product with 0 is 0


@dataclass(frozen=True, slots=True)
class Divergence:
    """Which distance, and over which tokens."""

    kind: DivergenceKind = "forward"
    """KL(p || q), KL(q || p), both towards their mean, or one of them towards it."""
    mix: float = 0.5
    """The teacher's share in the mean of all but the first two, in (0, 1)."""
    support: Support = FULL
    """Tokens that count by themselves; all others make one bucket."""

    @property
    def plain(self) -> bool:
        """Whether it is the forward KL over the whole vocabulary."""
        return self.kind == "forward" and self.support == FULL

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ValueError: an unknown kind, or a share outside (0, 1).
        """
        checked(DivergenceKind, self.kind, "divergence")
        if not 0 < self.mix < 1:
            raise ValueError(
                f"the mixing weight must be in (0, 1), got {self.mix}; its limits are "
                "the divergences 'reverse' and 'forward'"
            )


def pull_(
    student: Tensor,
    teacher: Tensor,
    settings: Divergence,
    row_temperature: Tensor,
    scale: Tensor,
) -> Tensor:
    """Distances of a block; its buffers become gradient and scratch.

    Args:
        student: (N, V) float32 or float64 logits, overwritten by the gradient of
            sum(scale x distance) to them.
        teacher: (N, V) logits **already divided by the temperature**, or log
            probabilities; overwritten.
        settings: which distance.
        row_temperature: (N,) temperatures.
        scale: (N,) factors.

    Returns:
        (N,) distances, times T^2, without ``scale``.
    """
    losses = student.new_empty(len(student))
    spare: Tensor | None = None  # fresh memory for every group would cost more than it
    even = bool((row_temperature == 1).all())
    quick = even and settings.plain and by_single_rows(student)
    factors = scale.tolist() if quick else []
    for rows in cached_rows(len(student), student, 1 if quick else None):
        s, t, hot = student[rows], teacher[rows], row_temperature[rows]
        spare = s.new_empty(2, *s.shape) if spare is None else spare
        if quick:
            row = forward_kl_row_(s[0], t[0], s[0], spare[:, 0], factors[rows.start])
            if row is not None:
                losses[rows] = row
                continue
        if not even:
            s.div_(hot[:, None])
        mask_both_(s, t)
        torch.log_softmax(s, -1, out=s)
        torch.log_softmax(t, -1, out=t)
        fill_tail_(t, s, settings.support)
        row_loss = _GRADIENTS[settings.kind](s, t, settings.mix, spare[0, : len(s)])
        # T^2 D of s / T: the chain rule takes one T away from the gradient to s
        torch.mul(row_loss, hot.square(), out=losses[rows])
        s.mul_((hot * scale[rows])[:, None])
    return losses


def mask_both_(s: Tensor, t: Tensor) -> None:
    """Leave out of both, in place, the tokens that one of them forbids (-inf)."""
    if not bool(torch.isneginf(torch.minimum(s.amin(), t.amin()))):
        return
    forbidden = torch.isneginf(s) | torch.isneginf(t)
    s.masked_fill_(forbidden, _MASKED)
    t.masked_fill_(forbidden, _MASKED)


def by_single_rows(like: Tensor) -> bool:
    """Whether :func:`forward_kl_row_` is the fastest way through (N, V) logits."""
    return like.device.type == "cpu" and like.shape[1] >= _LONG_ROW


def forward_kl_row_(
    s: Tensor, t: Tensor, out: Tensor, spare: Tensor, scale: float
) -> float | None:
    """The commonest distance of one long row, in as few passes as it takes.

    Nothing is subtracted before the exponentials, which takes finding the largest
    logit; ``out`` is touched once, because fresh memory costs more than what is done
    here; and between the passes there are numbers, not tensors.

    Args:
        s: (V,) student's logits, float32 or float64.
        t: (V,) teacher's logits, left as they are.
        out: (V,) for the gradient of scale x distance; may be ``s`` itself.
        spare: (2, V) scratch.
        scale: a factor.

    Returns:
        The distance; None, with nothing written to ``out``, where a logit is not
        finite or so large that its exponential leaves the range of floats.
    """
    # KL(p || q) = sum p (t - s) + log Z_s - log Z_t, with p = exp(t) / Z_t
    p = torch.exp(t, out=spare[0])
    mass_t, apart = float(p.sum()), float(p.dot(t)) - float(p.dot(s))
    q = torch.exp(s, out=spare[1])
    mass_s = float(q.sum())
    within = _LEAST_MASS < min(mass_s, mass_t) <= max(mass_s, mass_t) < 1 / _LEAST_MASS
    if not (within and math.isfinite(apart)):
        return None
    torch.sub(q.mul_(scale / mass_s), p, alpha=scale / mass_t, out=out)
    return apart / mass_t + math.log(mass_s / mass_t)


def _forward(s: Tensor, t: Tensor, mix: float, spare: Tensor) -> Tensor:
    """Log probabilities -> distances; ``s`` becomes the gradient to s / T."""
    apart = torch.sub(t, s, out=spare)
    t.exp_()
    loss = apart.mul_(t).sum(-1)
    s.exp_().sub_(t)
    return loss


def _reverse(s: Tensor, t: Tensor, mix: float, spare: Tensor) -> Tensor:
    # dD/ds_j = q_j (log q_j/p_j + 1) - q_j (D + 1): a softmax's gradient is centred
    apart = torch.sub(s, t, out=t)
    s.exp_()
    loss = torch.mul(s, apart, out=spare).sum(-1)
    s.mul_(apart.sub_(loss[:, None]))
    return loss


def _jensen_shannon(s: Tensor, t: Tensor, mix: float, spare: Tensor) -> Tensor:
    middle = torch.logaddexp(t + math.log(mix), s + math.log1p(-mix), out=spare)
    to_teacher = torch.linalg.vecdot(t.exp(), t - middle)
    apart = torch.sub(s, middle, out=middle)
    s.exp_()
    to_student = torch.linalg.vecdot(s, apart)
    s.mul_(apart.sub_(to_student[:, None])).mul_(1 - mix)
    return mix * to_teacher + (1 - mix) * to_student


def _skew_forward(s: Tensor, t: Tensor, mix: float, spare: Tensor) -> Tensor:
    middle = torch.logaddexp(t + math.log(mix), s + math.log1p(-mix), out=spare)
    loss = torch.linalg.vecdot(t.exp(), t - middle)
    shared = t.add_(s).sub_(middle).exp_()  # p q / m
    s.exp_().mul_(shared.sum(-1, keepdim=True)).sub_(shared).mul_(1 - mix)
    return loss


def _skew_reverse(s: Tensor, t: Tensor, mix: float, spare: Tensor) -> Tensor:
    middle = torch.logaddexp(t + math.log(mix), s + math.log1p(-mix), out=spare)
    apart = torch.sub(s, middle, out=middle)
    s.exp_()
    loss = torch.linalg.vecdot(s, apart)
    pull = apart.sub_(torch.exp(apart, out=t), alpha=1 - mix)
    s.mul_(pull.sub_(torch.linalg.vecdot(s, pull)[:, None]))
    return loss


_GRADIENTS = {
    "forward": _forward,
    "reverse": _reverse,
    "jensen_shannon": _jensen_shannon,
    "skew_forward": _skew_forward,
    "skew_reverse": _skew_reverse,
}
