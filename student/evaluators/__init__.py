"""Evaluators: what a model is worth, by metric and part."""

from student.evaluators.base import (
    WHOLE,
    EvalContext,
    Evaluator,
    Measured,
    Metric,
    Pair,
    Subject,
    Values,
)
from student.evaluators.built_in import EVALUATORS

__all__ = [
    "EVALUATORS",
    "WHOLE",
    "EvalContext",
    "Evaluator",
    "Measured",
    "Metric",
    "Pair",
    "Subject",
    "Values",
]
