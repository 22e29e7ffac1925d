"""The contract of evaluators: ours keep it, faults break it."""

import pytest
import torch

from plugins.contracts.check import check
from student.evaluators import EVALUATORS, Measured, Metric


class Faulty:
    """Measures one thing, and is wrong about another."""

    of_teachers = False

    def __init__(self, fault):
        self.fault = fault
        better = "more" if fault == "says nothing" else "lower"
        self.metrics = {"one": Metric("", better)}
        self.asked = 0

    def __call__(self, ctx):
        self.asked += 1
        if self.fault == "writes":
            with torch.no_grad():
                next(ctx.subject.model.parameters()).add_(1)
        if self.fault == "trains":
            ctx.subject.model.train()
        name = "two" if self.fault == "other metric" else "one"
        part = str(self.asked) if self.fault == "moves" else "all"
        if self.fault == "silent" and not ctx.teachers:
            return Measured({})
        number = float("nan") if self.fault == "nan" else 1.0
        return Measured({name: {part: number}})


def broken(factory):
    return {result.name for result in check("evaluator", factory) if not result.ok}


QUICK = sorted(EVALUATORS.keys() - {"speed", "generation"})


@pytest.mark.parametrize("name", QUICK)
def test_built_in_evaluators_keep_it(name):
    assert not broken(EVALUATORS[name])


def test_speed_and_generation_keep_it_with_less_to_do():
    speed, generation = EVALUATORS["speed"], EVALUATORS["generation"]
    assert not broken(lambda: speed(batches=[1], prompt_tokens=4, new_tokens=1))
    assert not broken(lambda: generation(prompt_words=3, new_tokens=2, scores=False))


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("says nothing", "says what it measures, in which unit, and what is better"),
        ("nan", "measures finite numbers of what it says"),
        ("other metric", "measures finite numbers of what it says"),
        ("writes", "leaves the models as they are"),
        ("trains", "leaves the models as they are"),
        ("moves", "measures the same metrics and parts again"),
        ("silent", "says so where there is no teacher"),
    ],
)
def test_a_fault_breaks_the_promise_that_names_it(fault, promise):
    assert promise in broken(lambda: Faulty(fault))
