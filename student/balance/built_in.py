"""The balancers that are ours, by the names under which a config calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from student.balance.balancer import Balanced, Balancer, Standing
from student.balance.direction import Conflict, Pareto
from student.balance.learned import GradNorm, Uncertainty
from student.balance.size import GradientMagnitude, Relative

UNBALANCED = "none"
"""The balancer that changes nothing; a run with it does not ask it at all."""


def unbalanced(names: tuple[str, ...]) -> Balancer:
    """Weights as the config gives them."""
    return _as_they_are


def _as_they_are(standing: Standing) -> Balanced:
    return Balanced(weights=standing.weights)


BALANCERS: Mapping[str, Callable[..., Balancer]] = {
    UNBALANCED: unbalanced,
    "relative": Relative,
    "uncertainty": Uncertainty,
    "gradnorm": GradNorm,
    "gradient_magnitude": GradientMagnitude,
    "pareto": Pareto,
    "conflict": Conflict,
}
"""The built-in balancers by name."""
