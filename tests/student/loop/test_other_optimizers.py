"""What every optimiser beside AdamW keeps, whatever it computes."""

from dataclasses import replace

import pytest
import torch

from student.checkpoint import steps_kept
from tests.student.loop.test_adamw_8bit import EIGHT
from tests.student.loop.test_muon import MUON


@pytest.mark.parametrize("config", [EIGHT, MUON], ids=lambda c: c.optimizer)
def test_a_stopped_and_resumed_phase_equals_an_undisturbed_one_bit_for_bit(
    config, run_alone, tmp_path
):
    losses, expected = run_alone(config)
    folder = tmp_path / "checkpoint"
    first, _ = run_alone(config, stop_at=3, folder=folder)
    assert [step for step, _ in steps_kept(folder)] == [3]
    second, found = run_alone(config, folder=folder)
    assert first + second == losses
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize(
    ("config", "tolerance", "stage", "refusal"),
    [
        (EIGHT, 1e-5, 0, r"zero_stage=1 would cut; set train.zero_stage=0"),
        (MUON, 1e-4, 1, r"zero_stage=2 would cut.*set train.zero_stage=1"),
    ],
    ids=["adamw_8bit", "muon"],
)
def test_deepspeed_takes_the_same_steps_at_stages_that_cut_no_parameter(
    config, tolerance, stage, refusal, run_alone
):
    deepspeed = replace(config, engine="deepspeed", zero_stage=stage, steps=3)
    found, _ = run_alone(deepspeed)
    expected, _ = run_alone(replace(config, steps=3))
    assert found == pytest.approx(expected, rel=tolerance)
    with pytest.raises(ValueError, match=refusal):
        replace(deepspeed, zero_stage=stage + 1)


@pytest.mark.parametrize("setting", [{"fp16": True}, {"offload": "optimizer"}])
def test_what_only_deepspeeds_own_stages_know_is_refused_beside_muon(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"train.{name} here; leave it out"):
        replace(MUON, engine="deepspeed", zero_stage=1, **setting)
