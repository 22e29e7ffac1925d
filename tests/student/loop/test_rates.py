import math

import pytest

from align.schedules import Timetable
from student.config import TrainConfig
from student.loop.rates import Rates


def share(config: TrainConfig, total_steps: int, step: int) -> float:
    return Rates(config, ["learning_rate"], Timetable(total_steps)).share(step)


def test_learning_rates_warm_up_and_come_down():
    warm = TrainConfig(warmup_steps=3, lr_schedule="cosine")
    assert [share(warm, 13, s) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert share(warm, 13, 8) == pytest.approx(0.55)
    assert share(warm, 13, 13) == pytest.approx(0.1)
    linear = TrainConfig(lr_schedule="linear")
    assert [share(linear, 10, s) for s in (0, 5, 10)] == [1.0, 0.5, 0.0]
    assert share(TrainConfig(lr_schedule="constant"), 10, 9) == 1.0


def before(curve: str, warmup: int, total: int, step: int) -> float:
    """What the curves were before they were short for schedules."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    if curve == "cosine":
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))
    return 1.0 - done if curve == "linear" else 1.0


@pytest.mark.parametrize("curve", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 7), (3, 37), (5, 5), (9, 4), (0, 0)])
def test_a_named_curve_is_bit_for_bit_what_it_was(curve, warmup, total):
    config = TrainConfig(lr_schedule=curve, warmup_steps=warmup)
    rates = Rates(config, ["learning_rate"], Timetable(total))
    for step in range(total + 3):
        assert rates.share(step) == before(curve, warmup, total, step), step


def test_a_rate_that_is_a_schedule_follows_that_alone():
    config = TrainConfig(
        learning_rate=0.5,
        bridge_learning_rate={"from": 0.0, "to": 1.0, "steps": 4},
        lr_schedule={"from": 1.0, "to": 0.0, "rule": "cosine"},
    )
    timetable = Timetable(total_steps=8)
    rates = Rates(config, ["learning_rate", "bridge_learning_rate"], timetable)
    assert rates.at(2) == pytest.approx([0.25 * (1 + math.cos(math.pi / 4)), 0.5])
    noted = timetable.taken()
    assert noted.pop("train.bridge_learning_rate") == 0.5
    assert noted == {"train.lr_schedule": pytest.approx(0.8535533905932737)}


def test_the_curve_of_every_run_is_not_noted_beside_its_rate():
    timetable = Timetable(total_steps=8)
    Rates(TrainConfig(), ["learning_rate"], timetable).at(3)
    assert timetable.taken() == {}


def test_a_warm_up_before_a_schedule_is_refused():
    with pytest.raises(ValueError, match=r"train\.warmup_steps=5 goes before a curve"):
        TrainConfig(warmup_steps=5, lr_schedule={"from": 1, "to": 0})


def test_weight_decay_moves_where_it_is_meant_and_is_noted():
    config = TrainConfig(weight_decay={"from": 0.2, "to": 0.0, "steps": 4})
    timetable, places = Timetable(), ["learning_rate", "bridge_learning_rate"]
    rates = Rates(config, places, timetable, decays=[True, False])
    assert rates.decay_at(1) == pytest.approx([0.15, 0.0])
    assert timetable.taken() == {"train.weight_decay": pytest.approx(0.15)}
    still = Rates(TrainConfig(weight_decay=0.3), places, timetable, [False, True])
    assert still.decay_at(1) == [0.0, 0.3] and timetable.taken() == {}
