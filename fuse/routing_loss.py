"""The losses in which routing weights take part, and what each may teach.

Routers learn from the outcome (through the fused KV they produce), from the
teachers' own losses and from the entropy term; never from a KV distance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from align.schedules import Setting, Timetable
from align.schedules.setting import schedule_of
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


def expected_teacher_loss(
    weights: Tensor,
    losses: Tensor,
    available: Tensor | None = None,
    total: float | None = None,
) -> Tensor:
    """Train a router by each teacher's own next-token loss.

    Together with a ``diverse`` entropy term of strength s its minimum is
    softmax(-losses / s), the responsibilities of a mixture of experts.

    Args:
        weights: (..., M), summing to 1 over M, with gradient.
        losses: (..., M), each teacher's loss on the same text in one unit for
            all (bits per character); detached here. A teacher of loss ``inf``, which
            predicts nothing of a text, is left out there.
        available: (..., M) bool, teachers that have such a loss (decoders);
            the others are left out and the weights renormalised.
        total: > 0, what the sum of expected losses is divided by; None: their number.

    Returns:
        Scalar float32, the mean expected loss; 0 where nothing is available.

    Source:
        Jacobs et al. (1991), Adaptive mixtures of local experts, eq. 1.2.
    """
    w, cost = weights.float(), losses.detach().float()
    known = ~cost.isposinf()
    if available is not None:
        known = known & available
    cost = torch.where(known, cost, torch.zeros_like(cost))
    w = w * known
    whole = w.sum(-1)
    safe = torch.where(whole > 0, whole, torch.ones_like(whole))
    rows = (w * cost).sum(-1) / safe
    return rows.sum() / (total or (whole > 0).sum().clamp(min=1))


class EntropyRegularizer:
    """Reward routing that is sharp (``specialized``) or broad (``diverse``)."""

    def __init__(
        self,
        target: str = "specialized",
        strength: Setting = 0.01,
        warmup_steps: int = 0,
        timetable: Timetable | None = None,
    ) -> None:
        """Choose sign, size and schedule.

        Args:
            target: ``specialized`` adds strength x entropy to the loss,
                ``diverse`` subtracts it.
            strength: loss per nat, >= 0, or a schedule of such.
            warmup_steps: steps over which the strength grows linearly from 0,
                because early specialisation locks in.
            timetable: of the phase; None: the schedule says its steps.

        Raises:
            ValueError: another target, or a negative number.
        """
        if target not in ("specialized", "diverse"):
            raise ValueError(
                f"entropy target is {target!r}; choose from specialized, diverse"
            )
        if isinstance(strength, float | int) and (strength < 0 or warmup_steps < 0):
            raise ValueError(
                "entropy strength and warmup_steps must be >= 0, "
                f"got {strength} and {warmup_steps}"
            )
        if warmup_steps:
            strength = {"from": 0.0, "to": strength, "steps": warmup_steps}
        self.target, self.strength = target, strength
        self._timetable = timetable or Timetable()

    def strength_at(self, step: int | None) -> float:
        """The strength at an optimiser step, counted from 0; None: in the end."""
        place = "fuse.entropy_reg_strength"
        if step is None:
            return schedule_of(self.strength, place).end
        return self._timetable.value(self.strength, place, step)

    def compute_loss(
        self,
        weights: Tensor,
        step: int | None = None,
        mask: Tensor | None = None,
        total: float | None = None,
    ) -> Tensor:
        """The term to add to the loss.

        Args:
            weights: (..., M), >= 0, summing to 1 over M, with gradient.
            step: optimiser step for the schedule; None: full strength.
            mask: (...) bool, weightings to count; None: all.
            total: > 0, what the sum of entropies is divided by; None: their number.

        Returns:
            Scalar float32: +- strength x mean entropy in nats.
        """
        entropy = routing_entropy(weights)
        kept = torch.ones_like(entropy) if mask is None else mask.expand_as(entropy)
        mean = (entropy * kept).sum() / (total or kept.sum().clamp(min=1))
        sign = 1.0 if self.target == "specialized" else -1.0
        return sign * self.strength_at(step) * mean
