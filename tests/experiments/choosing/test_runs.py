"""Runs in which teachers rest on the texts that they are not chosen for."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from experiments.cli import main
from tests.experiments.small_runs import small_config

FIRST, SECOND = "gpt2-prose", "qwen-code"
ONE_PHASE = {
    "phases": ["single"],
    "phase": {"single": {"teachers": {"max": 2}, "loss": {"outcome_every": 2}}},
}


def lines_of(run, kind="train"):
    rows = (run / "metrics.jsonl").read_text().splitlines()
    return [line for row in rows if (line := json.loads(row))["kind"] == kind]


def students(run):
    (folder,) = run.glob("phases/*/student")
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def train(tmp_path_factory, tiny_zoo):
    def run(teachers=(FIRST, SECOND), **changes):
        folder = tmp_path_factory.mktemp("chosen")
        config = small_config(folder, tiny_zoo, ONE_PHASE | changes)
        tree = yaml.safe_load(config.read_text())
        tree["teachers"] = {name: tree["teachers"][name] for name in teachers}
        config.write_text(yaml.safe_dump(tree, sort_keys=False))
        assert main(["train", str(config)]) == 0
        return folder / "run"

    return run


def test_one_of_several_that_is_always_chosen_is_bitwise_the_single_teacher_run(train):
    """Fails when a teacher that rests is compared, fused or counted anywhere."""
    steps = {"train": {"steps": 3, "grad_accum": 2, "batch_size": 2}}
    alone = train([FIRST], **steps)
    both = train(
        fuse={"choice": "hard", "routing_level": "sample", "weights": [1, 0]}, **steps
    )
    for mine, theirs in zip(lines_of(alone), lines_of(both), strict=True):
        assert mine["loss"] == theirs["loss"] and mine["terms"] == theirs["terms"]
    kept = students(both)
    for name, weight in students(alone).items():
        assert torch.equal(weight, kept[name]), name
    assert {line["asked"][SECOND] for line in lines_of(both)} == {0.0}
