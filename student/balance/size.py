"""Balancers that bring terms to one size: of their values, or of their gradients."""

from __future__ import annotations

import torch

from align.support.field_types import Positive, checked
from student.balance.balancer import (
    GRADIENTS,
    NEXT_TOKEN,
    Balanced,
    Standing,
    over,
)


class Relative:
    """Every term is as large as the next-token loss, times its weight.

    Source:
        As in TRL's and ModelOpt's distillation losses: ``w_i · |CE| / |L_i|`` with the
        quotient held fixed. What is rescaled to a constant still has a direction.
    """

    needs = frozenset({NEXT_TOKEN})

    def __init__(self, names: tuple[str, ...], *, limit: Positive = 1000.0) -> None:
        """Remember nothing.

        Args:
            names: of the terms.
            limit: the most by which a term is made larger.
        """
        self._limit = checked(Positive, limit, "limit")

    def __call__(self, standing: Standing) -> Balanced:
        """Weigh the terms of one pass."""
        assert standing.next_token is not None  # as needed
        size = standing.losses.abs()
        factor = over(size[standing.next_token], size).clamp_max(self._limit)
        active = standing.active & standing.active[standing.next_token]
        factor = torch.where(active, factor, 1.0)
        return Balanced(weights=standing.weights * factor)


class GradientMagnitude:
    """Every term's gradient is as long as they are on average, times its weight.

    Source:
        ``w_i · mean_j ‖g_j‖ / ‖g_i‖``, the mean over terms that have a gradient. It is
        GradNorm (Chen et al. 2018) with ``alpha: 0``, at once and with nothing to
        learn.
    """

    needs = frozenset({GRADIENTS})

    def __init__(self, names: tuple[str, ...], *, limit: Positive = 1000.0) -> None:
        """Remember nothing.

        Args:
            names: of the terms.
            limit: the most by which a gradient is made longer.
        """
        self._limit = checked(Positive, limit, "limit")

    def __call__(self, standing: Standing) -> Balanced:
        """Weigh the terms of one pass."""
        active, norms = standing.active, standing.norms
        if not bool(active.any()):
            return Balanced(weights=standing.weights)
        factor = over(norms[active].mean(), norms).clamp_max(self._limit)
        return Balanced(weights=standing.weights * torch.where(active, factor, 1.0))
