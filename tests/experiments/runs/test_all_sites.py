"""Hidden states, attention, keys and values, and outputs in one loss, under balancers
that learn, killed in the middle of each phase."""

import json

import pytest
from safetensors.torch import load_file

from experiments.run.driver import run_training
from student.loop.trainer import _Loop
from tests.experiments.sources.test_of_student import configured

BALANCERS = ("uncertainty", "gradnorm")
"""Those that learn; the others remember nothing."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TERMS = {
    "hidden": {
        "use": "match",
        "site": "hidden",
        "distance": "mse",
        "projector": "linear",
        "layers": "gradient:1",
        "weight": 0.1,
    },
    "attention": {"use": "match", "site": "attention", "distance": "kl", "weight": 0.1},
    "values": {
        "use": "match",
        "site": "values",
        "distance": "cosine",
        "projector": "orthogonal",
        "layer_weights": "gradient",
        "weight": 0.1,
    },
    "sparse": {"use": "activations", "penalty": "l1", "weight": 0.01},
}


class Killed(RuntimeError):
    """As a machine would."""


def test_all_sites_go_on_bit_for_bit_under_balancers_that_learn(
    tmp_path, tiny_zoo, monkeypatch
):
    changes = {
        "teachers": {
            "twin": {"model": str(tiny_zoo["student"])},
            "gpt2": {"model": str(tiny_zoo["gpt2-prose"])},
        },
        "phases": list(BALANCERS),
        "phase": {
            name: {"like": "dual", "loss": {"balance": name}} for name in BALANCERS
        },
        "loss": {"terms": TERMS, "outcome_every": 2, "domain_balance": 1.0},
        "output": {"kd": 0.5, "teachers": {"kd": ["twin"]}},
        "train": {"steps": 3, "checkpoint_every": 2, "engine": "torch"},
    }

    def run_in(name):
        return configured(tmp_path / name, tiny_zoo, changes)

    whole = run_training(run_in("whole"))
    save, kills = _Loop.save, []

    def killed(self, done):
        save(self, done)
        if done == 2 and len(kills) < len(BALANCERS):
            kills.append(done)
            raise Killed

    monkeypatch.setattr(_Loop, "save", killed)
    for _ in BALANCERS:
        with pytest.raises(Killed):
            run_training(run_in("killed"))
    resumed = run_training(run_in("killed"))

    def tensors(run):
        return load_file(run / "student" / "model.safetensors")

    expected, found = tensors(whole), tensors(resumed)
    assert all(bool((expected[name] == found[name]).all()) for name in expected)

    def terms(run):
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [
            (row["phase"], row["step"], row["terms"], row.get("balance"))
            for row in rows
            if row["kind"] == "train"
        ]

    assert terms(whole) == terms(resumed)
    assert len(terms(whole)) == 3 * len(BALANCERS)
    sizes = terms(whole)[-1][2]
    assert all(sizes[name] > 0 for name in (*TERMS, "kd", "kv_k", "ce"))
