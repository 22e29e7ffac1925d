"""Balancers that look for a direction in which no term gets worse."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from align.support.digest import seed_of
from align.support.field_types import checked
from student.balance.balancer import GRADIENTS, Balanced, Standing

Scale = Literal["none", "norm", "loss"]


class Pareto:
    """The shortest mixture of the terms' gradients: a step along it makes none worse.

    Where it is zero, no direction improves all terms at once. The mixture favours terms
    whose gradients are short; ``scale`` divides them before.

    Source:
        Désidéri 2012; Sener and Koltun 2018 (arXiv 1810.04650): ``min ‖Σ a_i g_i‖``
        over ``a_i >= 0``, ``Σ a_i = 1``, solved as non-negative least squares, not by
        Frank and Wolfe's iteration. The gradients are the terms' own times their
        weights. Departure: the mixture is multiplied by the number of terms, so that
        equal and perpendicular ones are weighed as without a balancer.
    """

    needs = frozenset({GRADIENTS})

    def __init__(self, names: tuple[str, ...], *, scale: Scale = "none") -> None:
        """Remember nothing.

        Args:
            names: of the terms.
            scale: what each gradient is divided by before they are mixed: ``none``,
                its ``norm``, or the term's ``loss``.
        """
        self._scale = checked(Scale, scale, "scale")

    def __call__(self, standing: Standing) -> Balanced:
        """Weigh the terms of one pass."""
        active, gram = standing.active, _weighed(standing)
        if not bool(active.any()):
            return Balanced(weights=standing.weights)
        unit = torch.ones_like(standing.weights)
        if self._scale == "norm":
            unit = gram.diagonal().clamp_min(0).sqrt()
        elif self._scale == "loss":
            unit = (standing.weights * standing.losses).abs()
        unit = unit[active]
        unit = unit / unit.mean()
        chosen = gram[active][:, active] / unit / unit[:, None]
        factor = torch.ones_like(standing.weights)
        factor[active] = min_norm_point(chosen) * len(chosen) / unit
        return Balanced(weights=standing.weights * factor)


class Conflict:
    """A term's gradient loses what would undo another's, then all are added up.

    Source:
        PCGrad, Yu et al. 2020 (arXiv 2001.06782), algorithm 1, on the terms' gradients
        times their weights; the order of the others is drawn anew at every step, by the
        run's seed, the same on all processes and in a run that goes on. What is added
        up is a mixture of the gradients, so the terms are weighed by it.
    """

    needs = frozenset({GRADIENTS})

    def __init__(self, names: tuple[str, ...]) -> None:
        """Remember nothing."""

    def __call__(self, standing: Standing) -> Balanced:
        """Weigh the terms of one pass."""
        active, gram = standing.active, _weighed(standing)
        factor = torch.ones_like(standing.weights)
        if bool(active.any()):
            seed = seed_of(standing.seed, "conflict", standing.step)
            chance = torch.Generator().manual_seed(seed)
            factor[active] = without_conflicts(gram[active][:, active], chance)
        return Balanced(weights=standing.weights * factor)


def min_norm_point(gram: Tensor) -> Tensor:
    """The convex mixture of vectors that is shortest.

    Args:
        gram: (N, N) float64 inner products of N vectors, none of them zero.

    Returns:
        (N,) float64 >= 0, summing to 1.

    Source:
        With ``u_i = g_i / ‖g_i‖`` and any scaling of the constraint, ``min ‖U y‖² +
        (c·y - 1)²`` over ``y >= 0`` lies on the ray of the shortest mixture: along a
        ray the best value is m / (1 + m), which grows with the mixture's length m.
        Lawson and Hanson's active sets (SciPy) solve it exactly in finitely many steps.
    """
    from scipy.optimize import nnls

    norms = gram.diagonal().sqrt()
    values, vectors = torch.linalg.eigh(gram / norms / norms[:, None])
    root = values.clamp_min(0).sqrt()[:, None] * vectors.T  # root.T @ root = cosines
    sums = norms.min() / norms
    system, target = torch.cat([root, sums[None]]), torch.zeros(len(gram) + 1)
    target[-1] = 1
    solution, _ = nnls(system.numpy(), target.double().numpy())
    mixture = torch.from_numpy(solution) * sums
    return mixture / mixture.sum()


def without_conflicts(gram: Tensor, chance: torch.Generator) -> Tensor:
    """By what vectors are multiplied where each gives up what opposes another.

    Args:
        gram: (N, N) float64 inner products of N vectors, none of them zero.
        chance: draws the order in which each meets the others.

    Returns:
        (N,) float64 >= 1, the mixture that the projected vectors add up to.
    """
    total = torch.zeros_like(gram[0])
    for index in range(len(gram)):
        mixture = torch.zeros_like(total)
        mixture[index] = 1
        for other in torch.randperm(len(gram), generator=chance).tolist():
            along = float(mixture @ gram[other])
            if other != index and along < 0:
                mixture[other] -= along / float(gram[other, other])
        total += mixture
    return total


def _weighed(standing: Standing) -> Tensor:
    """Inner products of the gradients times the terms' weights."""
    assert standing.gram is not None  # as needed
    return standing.gram * standing.weights * standing.weights[:, None]
