"""The losses in which routing weights take part, and what each may teach.

Routers learn from the outcome (through the fused KV they produce), from the
teachers' own losses and from the entropy term; never from a KV distance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fuse.routing_stats import routing_entropy


def weigh_losses(losses: Tensor, weights: Tensor) -> Tensor:
    """Average per-teacher losses with routing weights that learn nothing here.

    The alternative to averaging tensors: each teacher's loss is taken in its own
    basis. Weights are detached, so that no router can lower the loss by moving
    weight to the teacher that is easiest to copy.

    Args:
        losses: (..., M) float, one per teacher.
        weights: (..., M), broadcast against ``losses``; normalised over M.

    Returns:
        (...) float32; 0 where all weights are 0.
    """
    w = weights.detach().float()
    total = w.sum(-1, keepdim=True)
    w = w / torch.where(total > 0, total, torch.ones_like(total))
    return (losses.float() * w).sum(-1)


def responsibilities(
    losses: Tensor, temperature: float = 0.1, available: Tensor | None = None
) -> Tensor:
    """How much each teacher deserves a text, judged by its own loss on it.

    Args:
        losses: (..., M), each teacher's next-token loss on the same text, in one
            unit for all (bits per character: tokens differ between teachers).
        temperature: the loss by which one teacher must beat another to deserve
            e times as much, > 0.
        available: (..., M) bool, teachers that have such a loss (decoders).

    Returns:
        (..., M) float32, detached, summing to 1; all zero where none is available.

    Raises:
        ValueError: the temperature is not positive.

    Source:
        softmax(-loss / temperature): the posterior of a mixture of experts
        (Jacobs et al. 1991, eq. 1.3) with equal priors, tempered.
    """
    if not temperature > 0:
        raise ValueError(f"the signal's temperature must be > 0, got {temperature}")
    scores = -losses.detach().float() / temperature
    if available is None:
        return scores.softmax(-1)
    lowest = torch.finfo(torch.float32).min
    return scores.masked_fill(~available, lowest).softmax(-1) * available


def teacher_signal_loss(
    weights: Tensor,
    losses: Tensor,
    temperature: float = 0.1,
    available: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Train a router by the teachers' own losses.

    Teachers without a loss of their own (encoders) keep whatever weight they
    have: only the shares among the others are compared.

    Args:
        weights: (..., M), summing to 1 over M, with gradient.
        losses: (..., M), see :func:`responsibilities`; broadcast against weights.
        temperature: see :func:`responsibilities`.
        available: (..., M) bool, teachers that have such a loss.
        mask: (...) bool, weightings to count; None: all.

    Returns:
        Scalar float32, mean KL(responsibilities || weights), nats; 0 if no row
        counts.
    """
    target = responsibilities(losses, temperature, available)
    w = weights.float()
    w = w if available is None else w * available
    tiny = torch.finfo(torch.float32).tiny
    log_w = w.clamp(min=tiny).log() - w.sum(-1, keepdim=True).clamp(min=tiny).log()
    kl = (torch.special.xlogy(target, target) - target * log_w).sum(-1)
    counted = (target.sum(-1) > 0).expand_as(kl)
    counted = counted if mask is None else counted & mask
    return (kl * counted).sum() / counted.sum().clamp(min=1)


class EntropyRegularizer:
    """Reward routing that is sharp (``specialized``) or broad (``diverse``)."""

    def __init__(
        self,
        target: str = "specialized",
        strength: float = 0.01,
        warmup_steps: int = 0,
    ) -> None:
        """Choose sign, size and schedule.

        Args:
            target: ``specialized`` adds strength x entropy to the loss,
                ``diverse`` subtracts it.
            strength: loss per nat, >= 0.
            warmup_steps: steps over which the strength grows linearly from 0,
                because early specialisation locks in.

        Raises:
            ValueError: another target, or a negative number.
        """
        if target not in ("specialized", "diverse"):
            raise ValueError(
                f"entropy target is {target!r}; choose from specialized, diverse"
            )
        if strength < 0 or warmup_steps < 0:
            raise ValueError(
                "entropy strength and warmup_steps must be >= 0, "
                f"got {strength} and {warmup_steps}"
            )
        self.target, self.strength, self.warmup_steps = target, strength, warmup_steps

    def strength_at(self, step: int | None) -> float:
        """The strength at an optimiser step, counted from 0; None: full."""
        if step is None or step >= self.warmup_steps:
            return self.strength
        return self.strength * step / self.warmup_steps

    def compute_loss(
        self, weights: Tensor, step: int | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The term to add to the loss.

        Args:
            weights: (..., M), >= 0, summing to 1 over M, with gradient.
            step: optimiser step for the schedule; None: full strength.
            mask: (...) bool, weightings to count; None: all.

        Returns:
            Scalar float32: +- strength x mean entropy in nats.
        """
        entropy = routing_entropy(weights)
        if mask is None:
            mean = entropy.mean()
        else:
            kept = mask.expand_as(entropy)
            mean = (entropy * kept).sum() / kept.sum().clamp(min=1)
        sign = 1.0 if self.target == "specialized" else -1.0
        return sign * self.strength_at(step) * mean
