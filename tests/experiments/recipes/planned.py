"""What a recipe's memory is planned to be, which takes seconds."""

from functools import cache
from typing import Any

from experiments.config.tree import load_config
from experiments.estimate.counted import memory_plan


@cache
def plan_of(name: str) -> tuple[Any, ...]:
    """The lines of a recipe's plan, for as many processes as it is for.

    Args:
        name: of the recipe.
    """
    return tuple(memory_plan(load_config(name), 8 if name == "two_nodes" else 1))
