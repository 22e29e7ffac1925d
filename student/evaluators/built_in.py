"""The built-in evaluators by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

from student.evaluators.agreement import Agreement
from student.evaluators.base import Evaluator
from student.evaluators.cost import Cost
from student.evaluators.diversity import Diversity
from student.evaluators.errors import Errors
from student.evaluators.exits import Exits
from student.evaluators.generation import Generation
from student.evaluators.harness import Harness
from student.evaluators.likelihood import BitsPerChar, Calibration, Perplexity
from student.evaluators.size import Size
from student.evaluators.speed import Speed

EVALUATORS: Mapping[str, Callable[..., Evaluator]] = {
    "bits_per_char": BitsPerChar,
    "perplexity": Perplexity,
    "calibration": Calibration,
    "size": Size,
    "speed": Speed,
    "cost": Cost,
    "generation": Generation,
    "agreement": Agreement,
    "diversity": Diversity,
    "errors": Errors,
    "lm_eval": Harness,
    "exits": Exits,
}


def read_pairs_by(names: Set[str]) -> bool:
    """Whether some of these evaluators may read pairs; a plugin's may."""
    return "generation" in names or not names <= EVALUATORS.keys()
