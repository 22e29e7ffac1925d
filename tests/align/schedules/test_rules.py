import math

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    StepLR,
)

from align.schedules import Timetable


def values(setting: dict, steps: int) -> list[float]:
    timetable = Timetable(total_steps=30)
    return [timetable.value(setting, "x", step) for step in range(steps)]


def of_torch(scheduler, rate: float, steps: int, **options) -> list[float]:
    """What PyTorch's own scheduler makes of a rate."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    schedule, rates = scheduler(optimizer, **options), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_curves_are_those_of_pytorchs_schedulers():
    move = {"from": 0.8, "to": 0.05, "steps": 20}
    cosine = of_torch(CosineAnnealingLR, 0.8, 21, T_max=20, eta_min=0.05)
    assert values(move | {"rule": "cosine"}, 21) == pytest.approx(cosine, rel=1e-12)
    gamma = (0.05 / 0.8) ** (1 / 20)
    factors = of_torch(ExponentialLR, 0.8, 21, gamma=gamma)
    assert values(move | {"rule": "exponential"}, 21) == pytest.approx(factors)
    line = of_torch(LambdaLR, 0.8, 21, lr_lambda=lambda s: 1 - (1 - 1 / 16) * s / 20)
    assert values(move | {"rule": "linear"}, 21) == pytest.approx(line)
    stairs = of_torch(StepLR, 0.8, 21, step_size=10, gamma=0.25)
    jumps = {"rule": "step", "count": 2, "curve": "exponential"}
    assert values(move | jumps, 21) == pytest.approx(stairs)


def test_three_parts_warm_up_stay_and_fall():
    parts = {"from": 0, "to": 1, "peak": 8, "warmup": 3, "decay": 4, "steps": 10}
    setting = parts | {"rule": "three_part", "down": "linear"}
    assert values(setting, 13) == [
        *(2.0, 4.0, 6.0),  # never 0, never yet the peak
        *(8.0, 8.0, 8.0, 8.0),
        *(8 - 7 / 4, 8 - 7 / 2, 8 - 21 / 4),
        *(1.0, 1.0, 1.0),
    ]
    # half a cosine up, a plateau, equal factors down
    curves = {"up": "cosine", "down": "exponential", "steps": 10}
    seen = values(parts | curves | {"rule": "three_part"}, 12)
    up = [8 - 8 * (1 + math.cos(math.pi * u / 4)) / 2 for u in (1, 2, 3)]
    assert seen[:3] == pytest.approx(up)
    assert seen[6:] == pytest.approx([8, *(8 ** (1 - d / 4) for d in (1, 2, 3)), 1, 1])
    # without `decay` the fall takes all that is left of the phase, here of 30 steps
    whole = {"from": 0, "to": 0, "peak": 1, "warmup": 10, "rule": "three_part"}
    assert values(whole, 31)[20] == pytest.approx(0.5)
    assert values(whole, 31)[30] == 0.0


RULES = [
    {"rule": "linear"},
    {"rule": "exponential"},
    {"rule": "cosine"},
    {"rule": "step", "count": 3},
    {"rule": "step", "count": 7, "curve": "cosine"},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_schedule_begins_and_ends_where_it_says(rule):
    seen = values({"from": 0.3, "to": 0.7, "steps": 7} | rule, 40)
    assert seen[0] == 0.3 and seen[7:] == pytest.approx([0.7] * 33, rel=1e-12)
    assert max(seen) <= 0.7 + 1e-12
    assert seen == sorted(seen)
    assert values({"from": 0.3, "to": 0.7, "steps": 0} | rule, 2) == pytest.approx(
        [0.7, 0.7]
    )
    assert values({"from": 0.3, "to": 0.7, "steps": 1} | rule, 2) == pytest.approx(
        [0.3, 0.7]
    )
    assert set(values({"from": 0.25, "to": 0.25, "steps": 9} | rule, 12)) == {0.25}
    # without `steps` it takes the phase, here of 30
    assert values({"from": 0.3, "to": 0.7} | rule, 31)[30] == pytest.approx(0.7)


def test_jumps_fall_on_the_step_and_not_beside_it():
    # 0.29 * 100 is 28.999999999999996, and step 29 of 100 is the 29th all the same
    setting = {"from": 0, "to": 100, "steps": 100, "rule": "step", "count": 100}
    assert values(setting, 101) == pytest.approx([float(step) for step in range(101)])


def test_constant_needs_no_end():
    assert values({"from": 2.5, "rule": "constant"}, 3) == [2.5, 2.5, 2.5]
