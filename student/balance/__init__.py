"""Weights of the terms of a loss that are found while they are trained."""

from student.balance.apart import DomainVectors
from student.balance.balance import Balance, Weighing
from student.balance.balancer import (
    GRADIENTS,
    NEXT_TOKEN,
    Balanced,
    Balancer,
    Standing,
    balancer_needs,
)
from student.balance.built_in import BALANCERS, UNBALANCED
from student.balance.direction import (
    Conflict,
    Pareto,
    min_norm_point,
    without_conflicts,
)
from student.balance.domains import DomainBalance, DomainSignal
from student.balance.gradients import gram_of, parted, sources_of
from student.balance.learned import GradNorm, Uncertainty
from student.balance.size import GradientMagnitude, Relative

__all__ = [
    "BALANCERS",
    "GRADIENTS",
    "NEXT_TOKEN",
    "UNBALANCED",
    "Balance",
    "Balanced",
    "Balancer",
    "Conflict",
    "DomainBalance",
    "DomainSignal",
    "DomainVectors",
    "GradNorm",
    "GradientMagnitude",
    "Pareto",
    "Relative",
    "Standing",
    "Uncertainty",
    "Weighing",
    "balancer_needs",
    "gram_of",
    "min_norm_point",
    "parted",
    "sources_of",
    "without_conflicts",
]
