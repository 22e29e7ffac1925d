"""What is said beforehand of peers, and of texts that are written meanwhile."""

import json

import pytest

from experiments.cli import main
from teacher.loading.models import load_model
from tests.experiments.sources.test_peers import configured

WRITTEN = {
    "by": "student",
    "writer": "greedy",
    "every": 4,
    "opening_tokens": 6,
    "max_new_tokens": 8,
}


@pytest.fixture
def config(tiny_zoo, tmp_path):
    """A student and its twin, which learn from each other and from own text."""
    changes = {"train": {"grad_accum": 2}, "data": {"written": WRITTEN}}
    configured(tmp_path, tiny_zoo, changes, bob=False)
    return str(tmp_path / "config.yaml")


@pytest.fixture(scope="module")
def numbers(tiny_zoo):
    """Of the twin, each once."""
    model = load_model(tiny_zoo["student"]).model
    return sum(p.numel() for p in model.parameters())


@pytest.mark.slow
def test_a_plan_has_what_a_peer_learns_by(config, numbers, capsys):
    """AdamW: a gradient and two moments of each weight, in float32."""
    assert main(["estimate", config, "--plan", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["lines"]
    ann = {row["what"]: row["size"] for row in rows if row["of"] == "ann"}
    assert ann["weights, float32"] == 4 * numbers
    assert ann["gradients, float32"] == 4 * numbers
    assert ann["optimiser, adamw"] == 8 * numbers


@pytest.mark.slow
def test_steps_of_peers_and_writing_are_measured(config, numbers, capsys):
    words = ["estimate", config, "baselines.ce_only=true", "--json"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    held = said["memory"]["bridges, gradients and optimisers of peers"]
    assert held == (4 + 8) * numbers
    needs = said["training"]
    assert needs["peers"].keys() == {"ann"}
    taught, _ = (arm["seconds"] / arm["steps"] for arm in needs["arms"])
    assert needs["writing"] > 0
    assert taught > needs["peers"]["ann"] + needs["writing"]  # the own pass on top
    assert any("no stores are counted" in text for text in said["warnings"])
    without = ["data.written.by=null", "phase.dual.teachers={min: 0, names: []}"]
    assert main([*words, *without, "output.kd=0"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert not plain["training"]["peers"] and not plain["training"]["writing"]
    assert not any("peers" in what for what in plain["memory"])
