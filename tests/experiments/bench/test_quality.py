import numpy as np
import pytest

from experiments.bench._quality_arms import ARMS, CE_ONLY
from experiments.bench._quality_table import Outcome, difference, draw, table
from experiments.bench._quality_train import config_of, train_arm
from experiments.config import config_path, resolve_phases
from experiments.presets import load_registry, presets_of
from tests.experiments.small_runs import small_config


def outcome(name, factor, seeds=3, noise=0.0):
    """An arm whose texts cost ``factor`` times those of the baseline."""
    rng = np.random.default_rng(len(name))
    chars = np.arange(50, 90)
    cost = chars * (2 + np.sin(chars))
    runs = tuple(
        {
            "prose": np.stack(
                [factor * cost * (1 + noise * rng.standard_normal(40)), chars], 1
            ),
            "code": np.stack([cost, chars], 1),
        }
        for _ in range(seeds)
    )
    return Outcome(ARMS[name], runs, 10.0)


def test_a_tenth_less_in_one_domain_is_known_exactly():
    base, better = outcome(CE_ONLY, 1.0), outcome("fixed", 0.9)
    assert difference(better, base, "prose") == pytest.approx((-10, -10, -10))
    assert difference(better, base, "code") == (0, 0, 0)
    mean, low, high = difference(better, base, None)
    assert mean == pytest.approx(-5)  # both domains cost the same
    assert low < -4 and low > -6 and high < -4


def test_noise_widens_the_interval_around_no_difference():
    base, same = outcome(CE_ONLY, 1.0), outcome("fixed", 1.0, noise=0.2)
    delta, low, high = difference(same, base, "prose")
    assert low < delta < high
    assert low < 0 < high
    assert high - low > 1


def test_the_table_gives_bits_difference_and_cost(tmp_path):
    base, better = outcome(CE_ONLY, 1.0), outcome("fixed", 0.9)
    single = outcome("qwen-code", 0.95)
    first, second, third = table([base, better, single], base)
    assert first[0] == CE_ONLY and first[-3:] == ["", "", "1.0"]
    assert second[:2] == ["fixed", "3"] and second[-3].startswith("-5.0 [")
    assert second[-2].startswith(
        "-2.6 ["
    )  # 0.05 of prose's 0.95, of both domains' 1.95
    assert third[-3].startswith("-2.5 [") and third[-2] == ""
    draw([base, better], base, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").stat().st_size > 5000


@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_is_a_config_that_resolves(name, tmp_path):
    arm = ARMS[name]
    base = config_path("quality")
    config = config_of(arm, 1, base, tmp_path, 10, ["data.max_length=64"])
    assert (config.run.seed, config.data.max_length) == (1, 64)
    for phase in resolve_phases(config, presets_of(load_registry(config))):
        assert phase.teachers == list(arm.teachers)
        assert phase.train.steps == 10 * arm.stretch


def test_an_arm_without_teachers_trains_and_is_measured(tiny_zoo, tmp_path):
    base = small_config(tmp_path, tiny_zoo, {"student": {"init": "fresh"}})
    told = train_arm(ARMS[CE_ONLY], 3, base, tmp_path / "arm", 2, [])
    assert told["arm"] == CE_ONLY and told["steps"] == 2
    costs = [pair for pairs in told["bits"].values() for pair in pairs]
    assert len(costs) == 4 and all(bits > 0 and chars > 0 for bits, chars in costs)
