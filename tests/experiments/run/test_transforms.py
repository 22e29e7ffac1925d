"""A phase with a transform: begun, killed, gone on, exported; what is refused."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from experiments.cli import main
from experiments.config.parsing import ConfigError
from experiments.config.presets import load_registry
from experiments.config.tree import load_config
from experiments.record.history import read_json
from experiments.record.metrics import Metrics
from experiments.run.context import Stage, starts_transformed
from experiments.run.plan import plan_run
from student.evaluators.exits import read_exits
from student.transforms.fake_quant import Grid
from teacher.sources.base import PhaseStart
from tests.experiments.small_runs import said, small_config

ROUNDED = {"fake_quant": {"bits": 3, "group": 8, "scales": "learned"}}
CHANGES = {
    "student": {
        "transform": {
            "zeros": {"use": "block_sparse", "block": "1x8", "every": 3},
            "q": {
                "use": "fake_quant",
                "strength": {"from": 0.5, "to": 1},
                **ROUNDED["fake_quant"],
            },
        },
        "export_dtype": "float32",
    },
    "phase": {"dual": {"teachers": {"names": ["gpt2-prose", "whole"]}}},
    "teachers": {"whole": {"model": "checkpoint:-1"}},
    "output": {"kd": 1.0, "teachers": {"kd": ["whole"]}},
    "train": {"steps": 4, "optimizer": "muon", "checkpoint_every": 2},
}


def test_rounded_weights_of_earlier_versions_are_told_of():
    phase = SimpleNamespace(name="one", transform={"q": {"use": "fake_quant"}})
    other = SimpleNamespace(name="one", transform={"stochastic_depth": {}})
    start = PhaseStart(
        earlier={},
        kept=["one"],
        begins=Path("1-one/student"),
        texts_per_step=1,
        texts=1,
    )
    stages = [Stage(phase, ())]
    told = starts_transformed(start, stages)
    assert told.startswith("phase 'one' was finished by a version that kept")
    assert "as fake_quant left it" in told
    whole = replace(start, begins=Path("1-one/untransformed"))
    for at, before in (
        (whole, stages),
        (replace(start, begins=None), stages),
        (start, [Stage(other, ())]),
    ):
        assert starts_transformed(at, before) == ""


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("student.transform={fake_quant: {bits: 9}}", r"^student\.transform\.fake_qu"),
        ("student.transform={fake_quant: {bit: 4}}", r"transform\.fake_quant\.bit"),
        (
            "phase.all.transform.fake_quant.bits=9",
            r"^phase\.all\.transform\.fake_quant\.bits is 9",
        ),
        (
            "phase.dual.transform.fake_quant.bits=9",
            r"^phase\.dual\.transform\.fake_quant\.bits is 9",
        ),
        (
            "student.transform={fakequant: {}}",
            r"is called 'fakequant'.*asked for by student\.transform\.fakequant$",
        ),
        (
            "phase.dual.transform={q: {use: fakequant}}",
            r"asked for by phase\.dual\.transform\.q\.use$",
        ),
        ("student.transform={fake_quant: {strength: 2}}", r"fake_quant\.strength"),
        ("student.transform={fake_quant: 4}", r"student\.transform\.fake_quant"),
        ("student.lora.rank=4", r"student\.lora\.rank=4 freezes the weights"),
        ("student.trained=embeddings", r"student\.trained=embeddings freezes"),
        ("train={engine: deepspeed, zero_stage: 3}", r"train\.zero_stage=3 parts"),
    ],
)
def test_what_does_not_go_with_a_transform_is_refused_before_work(
    tiny_zoo, tmp_path, setting, told
):
    file = small_config(tmp_path, tiny_zoo, {"student": {"transform": ROUNDED}})
    with pytest.raises(ValueError, match=told):
        plan_run(load_config(file, [setting]), load_registry())


def test_a_phase_may_have_transforms_of_its_own_or_none(tiny_zoo, tmp_path):
    changes = {"student": {"transform": ROUNDED}, "phase": {"dual": {"transform": {}}}}
    plan = plan_run(
        load_config(small_config(tmp_path, tiny_zoo, changes)), load_registry()
    )
    assert plan.phases[0].transform == {}
    assert plan.config.student.transform == ROUNDED
    with pytest.raises(ConfigError, match=r"phase\.dual\.transform"):
        load = load_config(
            small_config(tmp_path, tiny_zoo), ["phase.dual.transform={q: 4}"]
        )
        plan_run(load, load_registry())


@pytest.fixture(scope="module")
def trained(tiny_zoo, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("transformed")
    assert main(["train", str(small_config(folder, tiny_zoo, CHANGES))]) == 0
    return folder


@pytest.mark.slow
def test_what_is_exported_lies_on_the_grid_that_was_trained(trained, tiny_zoo):
    run = trained / "run"
    exported = load_file(run / "student" / "model.safetensors")
    begun = load_file(tiny_zoo["student"] / "model.safetensors")
    assert exported.keys() == begun.keys()
    rounded = 0
    for name, weight in exported.items():
        assert not torch.equal(weight, begun[name].float()), name
        if weight.dim() == 2 and "layers" in name:
            blocks = weight.reshape(-1, 8)
            assert max(len(row.unique()) for row in blocks) <= 8, name
            assert int((blocks == 0).all(1).sum()) >= round(len(blocks) / 2), name
            rounded += 1
    assert rounded
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    strengths = [
        line["schedules"]["transform.q.strength"]
        for line in lines
        if line["kind"] == "train" and line["arm"] == "main"
    ]
    assert strengths == [0.5, 0.625, 0.75, 0.875]


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(trained, tmp_path, monkeypatch, capsys):
    parts = tmp_path / "parts"
    shutil.copytree(trained, parts)
    shutil.rmtree(parts / "run")
    config, write = str(trained / "config.yaml"), Metrics.write

    def write_and_signal(self, arm, phase, line, offset=0):
        write(self, arm, phase, line, offset)
        if (arm, line["kind"], line.get("step")) == ("main", "train", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write", write_and_signal)
        assert said(["train", config, f"run.dir={parts}"], capsys)[0] == 75
    assert said(["train", config, f"run.dir={parts}"], capsys) == (0, "")
    whole, again = (
        (folder / "run" / "student" / "model.safetensors").read_bytes()
        for folder in (trained, parts)
    )
    assert whole == again


@pytest.mark.slow
def test_a_later_phase_goes_on_from_what_was_trained(
    tiny_zoo, tmp_path, monkeypatch, capsys
):
    """Its own transforms are none, and its one step moves no weight."""
    rounded = {"fake_quant": {"bits": 3, "group": 8}}
    changes = {
        "student": {"transform": rounded, "export_dtype": "float32"},
        "phases": ["dual", "single"],
        "phase": {
            "dual": {"train": {"steps": 2, "learning_rate": 0.01}},
            "single": {
                "transform": {},
                "teachers": ["gpt2-prose"],
                "train": {"steps": 2, "learning_rate": 1e-30, "warmup_steps": 0},
            },
        },
        "train": {"checkpoint_every": 1},
        "loss": {"terms": {"deep": {"use": "deep_supervision", "weight": 0.3}}},
        "eval": {"use": [{"use": "exits", "thresholds": [0.0, 1.1]}]},
    }
    config = str(small_config(tmp_path, tiny_zoo, changes))
    write = Metrics.write

    def write_and_signal(self, arm, phase, line, offset=0):
        write(self, arm, phase, line, offset)
        if (phase, line["kind"], line.get("step")) == ("single", "train", 1):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write", write_and_signal)
        assert said(["train", config], capsys)[0] == 75
    assert said(["train", config], capsys) == (0, "")
    phases = tmp_path / "run" / "phases"
    computed, kept, later = (
        load_file(phases / place / "model.safetensors")
        for place in ("1-dual/student", "1-dual/untransformed", "2-single/student")
    )
    assert not (phases / "2-single" / "untransformed").exists()
    exits = read_exits(phases / "2-single" / "student")
    assert list(exits) == [0]  # of two layers the one below the last
    assert torch.equal(exits[0], read_exits(tmp_path / "run" / "student")[0])
    first = read_exits(phases / "1-dual" / "student")[0]
    assert not torch.equal(first, torch.eye(len(first)))
    phase = read_json(tmp_path / "run" / "summary.json")["phases"][-1]
    assert phase["metrics"]["exit_layers"] == {"at 0": 50, "never": 100}
    measured = ["eval", str(tmp_path / "run"), "--use", "exits"]
    assert main(measured) == 0
    assert "exit_layers" in capsys.readouterr().out
    grid = Grid(bits=3, group=8)
    for name, weight in later.items():
        assert torch.equal(weight, kept[name]), name
        if weight.dim() == 2 and "layers" in name:
            rows = grid.rows(weight)
            weight = grid.rounded(rows, grid.scales_of(rows)).view_as(weight)
            assert not torch.equal(weight, later[name]), name
        assert torch.equal(weight, computed[name]), name
