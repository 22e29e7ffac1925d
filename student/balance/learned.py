"""Balancers that learn their weights beside the student."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from align.support.field_types import NotNegative, checked
from student.balance.balancer import GRADIENTS, Balanced, Standing, over


class Uncertainty(nn.Module):
    """A learned noise for every term: one that stays large pulls less.

    Source:
        Kendall, Gal and Cipolla 2018 (arXiv 1705.07115) in its form for regression,
        ``w_i (L_i / (2 σ_i²) + log σ_i)``, least at ``σ_i² = L_i``. It begins at
        ``σ_i² = 1/2``, where a term weighs what the config says.
    """

    needs = frozenset[str]()

    def __init__(self, names: tuple[str, ...]) -> None:
        """One number for each of the terms."""
        super().__init__()
        self.log_sigma = nn.Parameter(torch.full((len(names),), -0.5 * math.log(2)))

    def forward(self, standing: Standing) -> Balanced:
        """Weigh the terms of one pass; one that finds nothing in all of its step leaves
        its σ alone."""
        by_config = standing.weights.to(self.log_sigma)
        present = standing.present.to(self.log_sigma)
        return Balanced(
            weights=by_config * torch.exp(-2 * self.log_sigma) / 2,
            loss=(by_config * present * self.log_sigma).sum(),
        )


class GradNorm(nn.Module):
    """Learned weights that bring the terms' gradients to one length, with more for
    terms that have learned less.

    Source:
        Chen et al. 2018 (arXiv 1711.02257): the weights v minimise ``Σ |v_i ‖g_i‖ -
        mean_j(v_j ‖g_j‖) · r_i^alpha|`` with the target held fixed, where ``r_i`` is
        ``L_i / L_i(0)`` over its mean. Departures: ``v`` is N times a softmax, which
        keeps its sum as their renormalisation does; the loss is divided by the mean
        length, on which its size must not depend; gradients are those to captured
        tensors. A rule that raises what has the longer gradient, or has learned more,
        is no GradNorm: the sign is theirs.
    """

    needs = frozenset({GRADIENTS})
    first: Tensor

    def __init__(self, names: tuple[str, ...], *, alpha: NotNegative = 1.5) -> None:
        """Start with equal weights.

        Args:
            names: of the terms.
            alpha: how strongly terms that have learned less are preferred; 0 asks for
                equal gradients alone.
        """
        super().__init__()
        self._alpha = checked(NotNegative, alpha, "alpha")
        self.scores = nn.Parameter(torch.zeros(len(names)))
        size = len(names)
        self.register_buffer("first", torch.zeros(size, dtype=torch.float64))

    def forward(self, standing: Standing) -> Balanced:
        """Weigh the terms of one pass, and learn from those that have a gradient."""
        weights = self.scores.softmax(0) * len(self.scores)
        by_config = standing.weights.to(weights)
        balanced = by_config * weights.detach()
        active = standing.active.to(weights.device)
        if not bool(active.any()):
            return Balanced(weights=balanced)
        lengths = weights * standing.norms.to(weights)
        mean = lengths[active].detach().mean()
        apart = lengths / mean - self._rates(standing, active).to(lengths)
        return Balanced(weights=balanced, loss=apart.abs()[active].sum())

    @torch.no_grad()
    def _rates(self, standing: Standing, active: Tensor) -> Tensor:
        """(N,) how much of its first size each term has kept, against the others."""
        sizes = standing.losses.to(self.first).abs()
        unknown = active & (self.first == 0)
        self.first.copy_(torch.where(unknown, sizes, self.first))
        kept = over(sizes, self.first)
        return (kept / kept[active].mean()) ** self._alpha
