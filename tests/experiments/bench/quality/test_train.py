"""What an arm's run is asked for, and what is measured of it."""

from dataclasses import replace

import pytest

from experiments.bench.quality import train
from experiments.bench.quality.arms import ARMS
from experiments.bench.quality.table import read_outcome
from experiments.bench.quality.train import Setup, bits_by_text, train_arm
from experiments.config.packaged import config_path
from experiments.config.tree import load_config
from experiments.record.history import read_json, write_json


def test_an_arm_of_another_seed_is_measured_on_the_texts_of_all(tmp_path, monkeypatch):
    bed = Setup(config_path("quality_zoo"), tmp_path, 300)
    arm = replace(ARMS["ce"], apart=1000)
    asked = {}

    def run_training(config):
        asked["trained"] = config.run.seed
        return tmp_path / "run"

    monkeypatch.setattr("experiments.run.driver.run_training", run_training)
    measured = {"code": [[12.0, 4.0]]}

    def bits(config, student, seed):
        asked["measured"] = (config.run.seed, student, seed)
        return measured

    monkeypatch.setattr(train, "bits_by_text", bits)
    train_arm(bed, arm, 2)
    assert asked["trained"] == 1002
    assert asked["measured"] == (1002, tmp_path / "run" / "student", 2)
    assert read_json(bed.result(arm, 2))["bits"] == measured


def test_memory_is_the_median_of_the_seeds_that_say_it(tmp_path):
    bed, arm = Setup(config_path("quality_zoo"), tmp_path, 300), ARMS["ce"]
    for seed, peak in enumerate([{}, {"peak_bytes": 4e9}, {"peak_bytes": 6e9}]):
        known = {"bits": {"code": [[8.0, 4.0]]}, "cpu_s": 3.0, "leads": {}} | peak
        write_json(bed.result(arm, seed), known)
    assert read_outcome(bed, arm, [0, 1, 2]).peak == 5e9
    assert read_outcome(bed, arm, [0]).peak == 0


@pytest.mark.parametrize(("seed", "drawn"), [(None, 7), (2, 2)])
def test_texts_are_drawn_by_the_seed_that_is_given(seed, drawn, tiny_zoo, monkeypatch):
    class Drawn(Exception):
        pass

    def load_data(data, encode, seed):
        raise Drawn(seed)

    monkeypatch.setattr("experiments.assemble.data.load_data", load_data)
    config = load_config({}, ["run.seed=7"])
    with pytest.raises(Drawn, match=str(drawn)):
        bits_by_text(config, tiny_zoo["student"], seed)
