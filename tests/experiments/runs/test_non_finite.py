"""A student that is not finite is not kept; a teacher that says nothing is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.experiments.small_runs import said, small_config


def changed(model, folder, change):
    """A copy of a model whose weights have been changed."""
    shutil.copytree(model, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name in weights:
        weights[name] = change(name, weights[name])
    save_file(weights, file, metadata={"format": "pt"})
    return folder


@pytest.mark.slow
def test_a_student_that_overflows_is_neither_marked_nor_exported(
    tiny_zoo, tmp_path, capsys
):
    """Its last step takes the weights, of which 1e30 is subtracted, beyond float32."""
    train = {"steps": 1, "learning_rate": 1e30, "weight_decay": 1e15, "warmup_steps": 0}
    config = small_config(tmp_path, tiny_zoo, {"train": train})
    code, message = said(["train", str(config)], capsys)
    assert code == 2
    assert "student of phase 'dual' (arm 'main') is not finite: model." in message
    assert "lower train.learning_rate" in message
    run = tmp_path / "run"
    assert not list(run.rglob("complete.json"))
    assert not (run / "student").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "every"), [("gpt2-prose", 0.0), ("qwen-code", 3.0)])
def test_a_teacher_without_a_word_alarms_by_name(
    tiny_zoo, tmp_path, capsys, name, every
):
    def change(_, tensor):
        return torch.full_like(tensor, every)

    mute = changed(tiny_zoo[name], tmp_path / "mute", change)
    config = small_config(
        tmp_path, tiny_zoo, {"teachers": {name: {"model": str(mute)}}}
    )
    code, _ = said(["train", str(config)], capsys)
    assert code == 0
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    alarms = [
        line for row in rows if "constant" in (line := json.loads(row)).get("alarm", "")
    ]
    assert [line["alarm"] for line in alarms] == [f"constant {name}"]
    said_of_it = f"teacher {name!r} says the same of every token: its keys for the"
    assert said_of_it in alarms[0]["event"]


@pytest.mark.parametrize("name", ["gpt2-prose", "qwen-code"])
def test_a_teacher_whose_keys_overflow_is_refused_by_name(
    tiny_zoo, tmp_path, capsys, name
):
    def change(weight, tensor):
        loud = "k_proj.weight" in weight or "c_attn.weight" in weight
        return tensor.sign() * 3e38 if loud else tensor

    loud = changed(tiny_zoo[name], tmp_path / "loud", change)
    config = small_config(
        tmp_path, tiny_zoo, {"teachers": {name: {"model": str(loud)}}}
    )
    code, message = said(["train", str(config)], capsys)
    assert code == 2 and f"teachers.{name}: " in message and "not finite" in message
