"""Which layers are compared, and how much each counts."""

import pytest
import torch

from align.errors import InputError
from student.match.layers import check_layers, chosen_layers, layer_shares


def test_layers_are_named_by_words_and_numbers():
    assert chosen_layers("all", 3, 0) == [0, 1, 2]
    assert chosen_layers("last:2", 5, 0) == [3, 4]
    assert chosen_layers([-1, 0], 4, 7) == [0, 3]


def test_random_layers_are_drawn_anew_for_each_step_and_alike_in_all_processes():
    drawn = [chosen_layers("random:2", 6, step) for step in range(40)]
    assert drawn == [chosen_layers("random:2", 6, step) for step in range(40)]
    assert all(layers == sorted(set(layers)) and len(layers) == 2 for layers in drawn)
    assert {layer for layers in drawn for layer in layers} == set(range(6))


def test_deeper_layers_may_count_more():
    like = torch.zeros(1, dtype=torch.float64)
    assert layer_shares("equal", [0, 3], like).tolist() == [0.5, 0.5]
    assert layer_shares("depth", [0, 2], like).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("most", "'most'; give all, last:K, random:K, rising:STEPS or a list of"),
        ("last:0", "'last:0'; give all"),
        ("last:9", "'last:9', but the student has 4 layers"),
        ([], r"\[\]; give one layer or more"),
        ([1, 1], "each once"),
        ([4], r"layer 4, but the student has layers 0..3, or -1..-4"),
        ([3, -1], "names a layer twice"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers, message):
    with pytest.raises(InputError, match=message):
        check_layers(layers, 4)


def test_layers_rise_from_the_lowest_to_all():
    counts = [chosen_layers("rising:8", 4, step) for step in range(10)]
    assert [len(x) for x in counts] == [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    assert counts[2] == [0, 1]
    check_layers("rising:100", 4)
