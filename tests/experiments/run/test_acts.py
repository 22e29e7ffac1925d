"""A run in three acts: planned, opened, trained; and a report that is none of them."""

import json
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer

from align.schedules import Timetable
from experiments import run_training
from experiments.assemble.fingerprint import tokenizer_digest
from experiments.config.presets import load_registry
from experiments.config.tree import load_config
from experiments.record.failures import ERRORS
from experiments.record.history import read_json
from experiments.record.lease import holder_alive
from experiments.report.status import describe
from experiments.run.context import phase_seed
from experiments.run.opening import open_run
from experiments.run.plan import plan_run
from plugins.contracts.step import step_context
from student.match.layers import LayerChoice
from teacher.names import model_source
from tests.experiments.small_runs import said, small_config


@dataclass
class Backend:
    """A tokenizer that is nothing but what its file describes."""

    backend_tokenizer: Any
    chat_template: str | None = None


@pytest.fixture
def config(tiny_zoo, tmp_path):
    changes = {"train": {"steps": 0}, "data": {"eval_samples": 1}}
    return small_config(tmp_path, tiny_zoo, changes)


def test_a_plan_writes_nothing_and_loads_nothing(config, tmp_path):
    weights = tmp_path / "student"
    weights.mkdir()
    (weights / "model.safetensors").mkdir()  # whoever reads it fails
    models = [f"student.model={weights}", f"teachers={{a: {weights}, b: {weights}}}"]
    before = sorted(tmp_path.rglob("*"))
    settings = load_config(config, models)
    plan = plan_run(settings, load_registry(settings))
    assert [phase.name for phase in plan.phases] == ["dual"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_breaks_open_gives_its_folder_back_and_says_why(config, tmp_path):
    settings = load_config(config)
    plan = plan_run(settings, load_registry(settings))
    with (
        pytest.raises(ZeroDivisionError),
        open_run(plan) as run,
    ):
        assert holder_alive(tmp_path / "run") and list(run.arms) == ["main"]
        raise ZeroDivisionError("in the block")
    assert not holder_alive(tmp_path / "run")
    (launch,) = describe(tmp_path / "run")["attempts"]
    assert launch["how"] == "failed" and "in the block" in launch["why"]


def test_training_alone_draws_and_reports_nothing(config, tmp_path):
    run_dir = run_training(load_config(config))
    assert json.loads((run_dir / "state.json").read_text())["finished"]
    assert (run_dir / "summary.json").is_file()
    assert not (run_dir / "report.md").exists()
    assert not (run_dir / "figures").exists()


@pytest.mark.slow
def test_a_run_writes_who_taught_it(config):
    settings = load_config(config)
    run_dir = run_training(settings)
    taught = read_json(run_dir / "teachers.json")["teachers"]
    assert taught.keys() == settings.teachers.keys()
    for name, entry in settings.teachers.items():
        folder, facts = Path(model_source(entry.model)), taught[name]
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert facts["model"] == entry.model and facts["asked"] == "live"
        assert facts["tokenizer"] == tokenizer_digest(Backend(tokenizer))
        (weights,) = folder.glob("*.safetensors")
        row = f"{weights.name} {sha256(weights.read_bytes()).hexdigest()}\n"
        assert facts["weights"] == sha256(row.encode()).hexdigest()[:16]
        types = {str(t.dtype) for t in load_file(weights).values()}
        assert types == {f"torch.{facts['dtype']}"}


@pytest.mark.slow
def test_a_schedule_knows_how_long_its_phase_is_before_the_first_step(
    tiny_zoo, tmp_path
):
    """Rotations are fitted then, by contexts that hold every setting of step 0.

    And the run's seed says which layers are drawn.
    """
    rotated = {"use": "match", "distance": "mse", "projector": "orthogonal"}
    rotated["layers"] = "random:1"
    changes = {
        "loss": {
            "temperatures": [{"from": 2, "to": 1}],  # over the whole phase
            "terms": {"rotated": rotated, "alike": {"use": "relation_k"}},
        },
        "data": {"eval_samples": 1},
    }
    config = load_config(small_config(tmp_path, tiny_zoo, changes), ["run.seed=7"])
    run_dir = run_training(config)
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    lines = [line for line in lines if line["kind"] == "train"]
    moved = [line["schedules"] for line in lines]
    assert moved == [{"loss.temperatures[0]": 2.0}, {"loss.temperatures[0]": 1.5}]
    for line in lines:
        ctx = replace(step_context()[0], place="loss.terms.rotated")
        timetable = Timetable(seed=phase_seed(7, 0))
        ctx = replace(ctx, timetable=timetable, step=line["step"] - 1)
        layers = LayerChoice("random:1").chosen(2, ctx)
        assert line["layers"] == {"rotated": layers}


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        "experiments.report.page.compose",
        "experiments.report.alignment.draw_what_meets",
    ],
)
def test_a_run_whose_report_fails_is_trained_all_the_same(
    config, tmp_path, monkeypatch, capsys, place
):
    def refuse(run):
        raise ZeroDivisionError("no ink")

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(place, refuse)
        assert said(["train", str(config)], capsys)[0] == 1
    (launch,) = describe(run_dir)["attempts"]
    assert launch["how"] == "finished"
    assert json.loads((run_dir / "state.json").read_text())["finished"]
    assert not (run_dir / "report.md").exists()
    (kept,) = (run_dir / ERRORS).iterdir()
    assert "no ink" in kept.read_text()
    assert said(["report", str(run_dir)], capsys)[0] == 0
    assert (run_dir / "report.md").is_file()


def test_what_a_failing_report_says(config, tmp_path, monkeypatch, capsys):
    def refuse(run):
        raise PermissionError(13, "no", "report.md")

    monkeypatch.setattr("experiments.report.page.compose", refuse)
    from experiments.cli import main

    assert main(["train", str(config)]) == 2
    *_, trained, error = capsys.readouterr().err.splitlines()
    assert trained.startswith(f"{tmp_path / 'run'} is trained, but has no report")
    assert error.startswith("mtkd: error: report.md cannot be used: permission denied")
