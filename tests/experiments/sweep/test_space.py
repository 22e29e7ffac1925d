"""What a sweep tries, and what its trials are called."""

import math
import random

import pytest

from experiments.config.parsing import ConfigError
from experiments.sweep.space import Range, read_space
from experiments.sweep.trials import names_of


def test_a_list_is_tried_unless_the_setting_takes_one():
    space = read_space(
        {},
        [
            "train.steps=[2, 4]",
            "phases=[dual]",
            "loss.lambda_k=1",
            "seed=[0, 1]",
            "data.train={values: [[a.txt], [b.txt]]}",
        ],
    )
    assert space.fixed == ("phases=[dual]", "loss.lambda_k=1")
    assert space.tried == {
        "train.steps": [2, 4],
        "run.seed": [0, 1],
        "data.train": [["a.txt"], ["b.txt"]],
    }
    grid = space.grid()
    assert len(grid) == 8
    assert grid[1] == (
        ("train.steps", 2),
        ("run.seed", 0),
        ("data.train", ["b.txt"]),
    )


def test_a_seed_beside_what_is_tried_is_set():
    space = read_space({}, ["seed=3", "train.steps=[2, 4]"])
    assert space.fixed == ("run.seed=3",)
    assert space.tried == {"train.steps": [2, 4]}


def test_lists_of_lists_are_tried_where_a_setting_takes_lists():
    assert read_space({}, ["phases=[[single], [dual]]"]).tried == {
        "phases": [["single"], ["dual"]]
    }


def test_what_is_drawn_is_drawn_again_and_more_of_it_begins_the_same():
    learning = "train.learning_rate={low: 1e-4, high: 0.01, log: true}"
    space = read_space({}, [learning, "train.batch_size=[2, 4, 8]", "seed=[0, 1]"])
    few, more = space.drawn(3, seed=0), space.drawn(9, seed=0)
    assert few == more[:6]
    assert len(more) == 18  # each with both seeds
    rates = [dict(settings)["train.learning_rate"] for settings in more]
    assert all(1e-4 <= rate <= 0.01 for rate in rates)
    assert min(rates) < 1e-3  # evenly in the logarithm: half of them below
    assert few != space.drawn(3, seed=1)


def test_drawing_from_lists_ends_where_there_are_no_more():
    space = read_space({}, ["train.steps=[2, 4]", "train.batch_size=[1, 2]"])
    assert sorted(space.drawn(50, 0)) == sorted(space.grid())


@pytest.mark.parametrize("log", [False, True])
def test_a_range_of_whole_numbers_gives_whole_numbers_within_it(log):
    whole, generator = Range(1, 64, log, True), random.Random(0)
    values = [whole.draw(generator) for _ in range(200)]
    assert all(isinstance(value, int) and 1 <= value <= 64 for value in values)
    middle = sorted(values)[100]
    assert math.isclose(middle, 8 if log else 32, rel_tol=0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.stepz=[1, 2]"], "unknown config key 'train.stepz'"),
        (["train.steps=[1, no]"], None),  # told by its trial, below
        (["train.steps=[x, 2]"], "train.steps"),
        (["train.steps=[2, 2]"], "train.steps has 2 twice"),
        (["train.steps=[1, 2]", "train.steps=[3]"], "train.steps is tried twice"),
        (["train.steps=4"], "nothing is tried"),
        (["train.learning_rate={low: 0.1, high: 0.01}"], "low must be less than high"),
        (["train.learning_rate={low: 0, high: 1, log: true}"], "more than 0"),
        (["train.learning_rate={low: 1, high: 2, by: 3}"], "give a range as"),
        (["phases={values: dual}"], "give a list of values"),
        (
            ["student.transform.s.sparsity=[0.25, 0.5]"],
            r"sparsity=\{values: \[0.25, 0.5\]\}' to try each",
        ),
        (["run.name=[a, b]"], "a sweep names its trials"),
        (["run.dir={values: [a, b]}"], "a sweep names its trials"),
    ],
)
def test_what_cannot_be_tried_is_refused(words, message):
    if message is None:
        assert read_space({}, words).tried == {"train.steps": [1, False]}
        return
    with pytest.raises(ValueError, match=message):
        read_space({}, words)


def test_a_grid_refuses_a_range():
    space = read_space({}, ["train.learning_rate={low: 0.1, high: 0.2}"])
    with pytest.raises(ValueError, match="--search random --trials N"):
        space.grid()


def test_an_empty_list_is_no_list_of_values():
    with pytest.raises(ConfigError, match="phases is empty"):
        read_space({}, ["phases=[]"])


def test_trials_are_called_by_their_settings_and_never_alike():
    long = "x" * 200
    names = names_of(
        [
            (("train.learning_rate", 0.01), ("loss.lambda_k", 1)),
            (("train.learning_rate", 0.01), ("loss.lambda_k", -1)),
            (("train.learning_rate", "1e-3"), ("loss.lambda_k", True)),
            (("train.learning_rate", long), ("loss.lambda_k", 1)),
        ]
    )
    assert names[2] == "learning-rate-1e-3_lambda-k-true"
    assert names[0] == "learning-rate-0.01_lambda-k-1"
    assert names[1] == "learning-rate-0.01_lambda-k--1"
    assert len(set(names)) == 4
    assert max(map(len, names)) <= 100
    both = names_of([(("phase.a.train.steps", 1), ("phase.b.train.steps", 2))])
    assert both == ["phase.a.train.steps-1_phase.b.train.steps-2"]


def test_more_trials_than_a_sweep_has_are_refused_before_any_is_drawn():
    space = read_space({}, ["train.learning_rate={low: 0.1, high: 1}"])
    with pytest.raises(ValueError, match="--trials is 99999999; a sweep has at most"):
        space.drawn(99_999_999, 0)
