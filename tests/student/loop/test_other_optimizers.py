"""What every optimiser beside AdamW keeps, whatever it computes."""

from dataclasses import replace

import pytest
import torch

from student.loop.phase_checkpoint import steps_kept
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
    ("config", "tolerance", "refusal"),
    [
        (EIGHT, 1e-5, r"zero_stage=1 would cut; set train.zero_s"),
        (MUON, 1e-4, r"zero_stage=1 would lay.*set train.zero_s"),
    ],
    ids=["adamw_8bit", "muon"],
)
def test_deepspeed_without_zero_takes_the_same_steps_and_zero_is_refused(
    config, tolerance, refusal, run_alone
):
    deepspeed = replace(config, engine="deepspeed", zero_stage=0, steps=3)
    found, _ = run_alone(deepspeed)
    expected, _ = run_alone(replace(config, steps=3))
    assert found == pytest.approx(expected, rel=tolerance)
    with pytest.raises(ValueError, match=refusal):
        replace(deepspeed, zero_stage=1)
