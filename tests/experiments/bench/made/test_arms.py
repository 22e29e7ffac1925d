"""What the bench of made students compares is what it says."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from align.tokens.batch import encode_batch
from experiments.bench.made import arms
from experiments.bench.made.__main__ import folder_of
from experiments.bench.made.arms import (
    CORRECTIONS,
    Bed,
    Outcome,
    counted,
    healing,
    longer,
    round_off,
    rounding,
)
from experiments.config.tree import load_config
from experiments.record.history import read_json


def bed(folder):
    return Bed(
        source="zoo:neox-mixed", layers=0, steps=200, rounding_steps=100, folder=folder
    )


def test_the_cut_alone_is_given_as_much_of_the_processor(tmp_path):
    healed = Outcome(bits=1.0, seconds=90.0, steps=200)
    alone = Outcome(bits=1.2, seconds=30.0, steps=200)
    arm = longer(bed(tmp_path), healed, alone)
    assert (arm.name, arm.steps, dict(arm.teachers)) == ("ce-longer", 600, {})


def test_runs_lie_inside_out_whatever_the_source_is_called():
    for source in ("zoo:neox-mixed", "/models/neox", "../neox"):
        assert folder_of(Path("out"), source).parent == Path("out")


def test_every_arm_has_a_config_that_can_be_read(tmp_path):
    place = bed(tmp_path)
    for arm in healing(place) + rounding(place):
        tree = place.tree(str(place.cut), arm.steps) | {"teachers": dict(arm.teachers)}
        config = load_config(tree, [f"run.name={arm.name}", *arm.settings])
        assert config.run_dir == Path(tmp_path) / "runs" / arm.name
        assert set(config.teachers) == set(arm.teachers)


def test_an_arm_that_was_stopped_costs_what_both_calls_took(tmp_path, monkeypatch):
    clock = iter([0.0, 7.0, 100.0, 103.0, 104.0])
    monkeypatch.setattr("time.process_time", lambda: next(clock))
    with pytest.raises(RuntimeError, match="stopped"), counted(tmp_path / "a.json"):
        raise RuntimeError("stopped")  # after 7 seconds
    with counted(tmp_path / "a.json") as seconds:
        assert seconds() == 7 + 3
    assert read_json(tmp_path / "a.json") == {"seconds": 7 + 4}


def test_what_is_rounded_afterwards_has_sixteen_values_a_row(
    tiny_zoo, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        arms, "calibration", lambda bed, tokenizer: [encode_batch(tokenizer, ["x = 1"])]
    )
    place, source = bed(tmp_path), tiny_zoo["qwen-code"]
    out = round_off(place, source, tmp_path / "rounded")
    fitted = round_off(place, source, tmp_path / "fitted", CORRECTIONS["-scales"])
    model = AutoModelForCausalLM.from_pretrained(out)
    other = AutoModelForCausalLM.from_pretrained(fitted)
    name = "model.layers.0.mlp.up_proj.weight"
    whole, scaled = (m.get_parameter(name).detach() for m in (model, other))
    assert not torch.equal(whole, scaled)
    assert torch.equal(whole.sign(), scaled.sign())
    before = AutoModelForCausalLM.from_pretrained(tiny_zoo["qwen-code"])
    weight = model.model.layers[0].mlp.up_proj.weight
    assert max(len(row.unique()) for row in weight) <= 16
    assert torch.equal(model.lm_head.weight, before.lm_head.weight)
