"""Which arms a run has, and how long each of them trains."""

import json
from dataclasses import replace

import pytest
import yaml
from safetensors.torch import load_file

from experiments.cli import main
from experiments.config.tree import load_config, resolve_phases
from experiments.record.course import phase_steps
from experiments.run.arms import plan_again, plan_arms, repeated_arms
from experiments.run.context import Stage
from student.config import TrainConfig
from student.loop.data_order import sample_indices
from tests.experiments.small_runs import small_config


@pytest.mark.parametrize(
    ("samples", "at_once", "epochs", "steps"),
    [(300, 256, 3, 4), (33, 32, 10, 11), (9, 8, 10, 12), (8, 4, 2, 4), (5, 8, 1, 1)],
)
def test_epochs_are_read_whole_and_no_further_than_one_step(
    samples, at_once, epochs, steps
):
    train = TrainConfig(num_epochs=epochs)
    assert phase_steps(train, samples, at_once) == steps
    read = sample_indices(samples, 0, 0, steps * at_once)
    times = [read.count(index) for index in range(samples)]
    assert min(times) >= epochs
    assert len(read) - epochs * samples < at_once


def test_steps_that_are_given_are_kept():
    assert phase_steps(TrainConfig(steps=7, num_epochs=3), 100, 8) == 7


def planned(presets, teachers, **changes):
    """The arms of a run with these teachers, all baselines asked for."""
    config = load_config(
        {
            "teachers": teachers,
            "phases": ["dual"],
            "phase": {"dual": {"teachers": {"min": 1}, **changes}},
            "baselines": {"leave_one_out": "all"},
        }
    )
    phases = resolve_phases(config, presets)
    return plan_arms(config, [Stage(phase, tuple(teachers)) for phase in phases])


def test_an_arm_that_another_trains_already_is_not_trained_again(presets):
    alone = planned(presets, ["p"])
    assert repeated_arms(alone) == {"single:p": "main", "without:p": "ce_only"}
    both = planned(presets, ["p", "q"])
    assert repeated_arms(both) == {"without:p": "single:q", "without:q": "single:p"}
    assert repeated_arms(planned(presets, ["p", "q", "r"])) == {}


def test_teachers_are_asked_again_by_arms_and_of_calibration_by_phases_to_come(presets):
    (dual,) = planned(presets, ["p", "q", "r"])["main"]
    p, q, r, both = (
        replace(dual, teachers=(*names,)) for names in ["p", "q", "r", "pq"]
    )
    arms = {"main": [both, r], "ce_only": [replace(dual, teachers=())] * 2}
    arms |= {"single:q": [q, q], "without:p": [q, r], "single:p": [p, p]}
    again = plan_again(arms)
    assert again["main", 0].phase == {"q", "p"}
    assert again["main", 0].calibration == {"r", "q", "p"}
    assert again["main", 1].phase == {"q", "r", "p"}  # of arms, not of this phase's
    assert again["single:q", 0].phase == {"q", "p"}
    assert again["without:p", 1].calibration == {"p"}
    assert again["single:p", 0].phase == set()
    assert again["single:p", 0].calibration == {"p"}
    assert again["single:p", 1].calibration == set()
    assert plan_again(planned(presets, ["p"]))["main", 0].phase == set()  # repeated


def test_one_teacher_with_a_router_is_another_training_than_it_alone(presets):
    arms = planned(presets, ["p"], fuse={"fusion_method": "learnable"})
    assert "single:p" not in repeated_arms(arms)


def test_arms_that_differ_in_one_setting_are_both_trained(presets):
    arms = planned(presets, ["p"])
    (stage,) = arms["single:p"]
    longer = replace(stage.phase, train=TrainConfig(steps=7))
    arms["single:p"] = [replace(stage, phase=longer)]
    assert repeated_arms(arms) == {"without:p": "ce_only"}


@pytest.mark.slow
def test_one_teacher_trains_at_once_and_as_its_own_baseline_bit_for_bit(
    tmp_path, tiny_zoo
):
    name = "gpt2-prose"
    path = small_config(tmp_path, tiny_zoo, {"baselines": {"single_teachers": [name]}})
    assert main(["train", str(path), "run.name=two"]) == 0
    config = yaml.safe_load(path.read_text())
    del config["phases"], config["teachers"]["qwen-code"]
    config["teachers"][name]["weight"] = 0.3
    config["baselines"] = {"ce_only": False}
    path.write_text(yaml.safe_dump(config))
    assert main(["train", str(path), "run.name=one"]) == 0
    (first,) = tmp_path.glob(f"two/baselines/single-{name}/*/student/model.safetensors")
    (second,) = tmp_path.glob("one/phases/1-single/student/model.safetensors")
    arm, alone = load_file(first), load_file(second)
    assert arm.keys() == alone.keys()
    assert all(arm[key].equal(alone[key]) for key in arm)
    assert not (tmp_path / "one" / "baselines").exists()
    (phase,) = json.loads((tmp_path / "one" / "summary.json").read_text())["phases"]
    assert phase["best_single"] == {"teacher": name, "bpc": phase["bpc"]}
