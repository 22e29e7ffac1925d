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
from dataclasses import dataclass

import torch
from torch import Tensor

from student.output.rows import cached_rows
from student.output.support import FULL, Support, fill_tail_

KINDS = ("forward", "reverse", "jensen_shannon")
_MASKED = -1e30  # stands for -inf: finite, so that its product with 0 is 0


@dataclass(frozen=True, slots=True)
class Divergence:
    """Which distance, and over which tokens."""

    kind: str = "forward"
    """``forward``, ``reverse`` or ``jensen_shannon``."""
    mix: float = 0.5
    """The teacher's share in the mean of ``jensen_shannon``, in (0, 1)."""
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
        if self.kind not in KINDS:
            raise ValueError(
                f"divergence is {self.kind!r}; give one of {', '.join(KINDS)}"
            )
        if not 0 < self.mix < 1:
            raise ValueError(
                f"the mixing weight must be in (0, 1), got {self.mix}; its limits are "
                "the divergences 'reverse' and 'forward'"
            )


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
    losses = student.new_empty(len(student))
    spare: Tensor | None = None  # fresh memory for every group would cost more than it
    even = bool((heat == 1).all())
    plain = even and settings.plain
    for rows in cached_rows(len(student), student):
        s, t, hot = student[rows], teacher[rows], heat[rows]
        spare = torch.empty_like(s) if spare is None else spare
        if plain:
            found = forward_kl_(s, t, s, spare[: len(s)], scale[rows])
            if found is not None:
                losses[rows] = found
                continue
        if not even:
            s.div_(hot[:, None])
        mask_both_(s, t)
        torch.log_softmax(s, -1, out=s)
        torch.log_softmax(t, -1, out=t)
        fill_tail_(t, s, settings.support)
        found = _GRADIENTS[settings.kind](s, t, settings.mix, spare[: len(s)])
        torch.mul(found, hot.square(), out=losses[rows])
        s.mul_((hot * scale[rows])[:, None])
    return losses


def mask_both_(s: Tensor, t: Tensor) -> None:
    """Leave out of both, in place, the tokens that one of them forbids (-inf)."""
    if not bool(torch.isneginf(torch.minimum(s.amin(), t.amin()))):
        return
    forbidden = torch.isneginf(s) | torch.isneginf(t)
    s.masked_fill_(forbidden, _MASKED)
    t.masked_fill_(forbidden, _MASKED)


def forward_kl_(
    s: Tensor, t: Tensor, out: Tensor, spare: Tensor, scale: Tensor
) -> Tensor | None:
    """The commonest distance in as few passes over memory as it takes.

    Args:
        s: (n, V) student's logits.
        t: (n, V) teacher's logits, left as they are.
        out: (n, V) for the gradient of sum(scale x distance); may be ``s`` itself.
        spare: (n, V) scratch.
        scale: (n,) factors.

    Returns:
        (n,) distances; None, with nothing written to ``out``, where a logit is not
        finite.
    """
    top_t, top_s = t.amax(-1, keepdim=True), s.amax(-1, keepdim=True)
    p = torch.sub(t, top_t, out=spare).exp_()
    mass_t = p.sum(-1, keepdim=True)
    apart = (_dot(p, t) - _dot(p, s)) / mass_t[:, 0]
    if not bool(apart.isfinite().all()):
        return None
    q = torch.sub(s, top_s, out=out).exp_()
    mass_s = q.sum(-1, keepdim=True)
    q.mul_(scale[:, None] / mass_s)
    q.sub_(p.mul_(scale[:, None] / mass_t))
    log_masses = mass_s.log() - mass_t.log() + (top_s - top_t)
    return apart + log_masses[:, 0]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(n,) inner products of rows, without a product's memory for one row."""
    return a[0].dot(b[0])[None] if len(a) == 1 else torch.linalg.vecdot(a, b)


def _forward(s: Tensor, t: Tensor, mix: float, spare: Tensor) -> Tensor:
    """Log probabilities -> distances; ``s`` becomes the gradient to s / T."""
    apart = torch.sub(t, s, out=spare)
    t.exp_()
    loss = apart.mul_(t).sum(-1)
    s.exp_().sub_(t)
    return loss


def _reverse(s: Tensor, t: Tensor, mix: float, spare: Tensor) -> Tensor:
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


_GRADIENTS = {
    "forward": _forward,
    "reverse": _reverse,
    "jensen_shannon": _jensen_shannon,
}
