"""The best student of a phase: by hand, with numbers that are none, and put back."""

import math

import pytest
import torch
from torch import nn

from student.evaluators.best import Best


def seen(values, **settings):
    model = nn.Linear(1, 1, bias=False)
    best = Best(model, **settings)
    for step, value in enumerate(values, 1):
        with torch.no_grad():
            model.weight.fill_(step)
        best.see(value, step)
    return model, best


@pytest.mark.parametrize(
    ("lower", "values", "step", "value"),
    [
        (True, [3.0, 1.1, 2.0], 2, 1.1),  # in float64
        (False, [3.0, 1.0, 4.0], 3, 4.0),
        (True, [1.0, 1.0], 1, 1.0),  # as good is no better
        (True, [math.nan, 5.0, math.nan], 2, 5.0),
        (False, [math.inf, 5.0], 1, math.inf),
    ],
)
def test_the_best_is_the_first_that_nothing_beats(lower, values, step, value):
    _, best = seen(values, lower=lower)
    assert (best.step, best.value) == (step, value)


def test_patience_counts_evaluations_since_the_best():
    assert not seen([2.0, 3.0, 1.0, 4.0], lower=True, patience=2)[1].stopped
    assert seen([2.0, 3.0, 4.0], lower=True, patience=2)[1].stopped
    assert not seen([2.0, 3.0, 4.0], lower=True)[1].stopped


def test_the_best_ones_weights_come_back_and_only_if_they_are_kept():
    model, best = seen([3.0, 1.0, 2.0], lower=True, keep=True)
    best.restore()
    assert float(model.weight.detach()) == 2.0
    model, best = seen([3.0, 1.0, 2.0], lower=True)
    best.restore()
    assert float(model.weight.detach()) == 3.0


def test_all_that_it_remembers_is_in_its_tensors():
    _, best = seen([3.0, 1.0, 2.0], lower=True, keep=True, patience=2)
    again = Best(nn.Linear(1, 1, bias=False), lower=True, keep=True, patience=2)
    for name, tensor in again.tensors.items():
        tensor.copy_(best.tensors[name])
    assert (again.step, again.value) == (2, 1.0)
    assert not again.stopped
    again.see(5.0, 4)
    assert again.stopped
