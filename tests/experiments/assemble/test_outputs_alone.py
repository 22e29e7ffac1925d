"""A phase that learns from outputs alone asks nobody for keys and values."""

import json

import pytest

from experiments.cli import main
from experiments.config.tree import load_config
from experiments.estimate.counted import memory_plan
from teacher.capture.recording import Recording
from teacher.live_teacher import LiveTeacher
from tests.experiments.small_runs import said, small_config

SILENT = {"lambda_k": 0, "lambda_v": 0, "beta_cos": 0, "gamma_kl": 0}
OUTPUTS = {"phase": {"all": {"loss": SILENT, "output": {"projected_kl": 1}}}}


@pytest.mark.slow
def test_it_captures_none_builds_no_adapters_and_needs_less(
    tiny_zoo, tmp_path, capsys, monkeypatch
):
    views, asking, layers = [], [], []
    ask, write = LiveTeacher.ask, Recording._write

    def spied(self, *given):
        asking.append(True)
        views.append(ask(self, *given))
        asking.pop()
        return views[-1]

    def counted(self, layer, call):
        layers.append(bool(asking))  # else the student is read
        write(self, layer, call)

    monkeypatch.setattr(LiveTeacher, "ask", spied)
    monkeypatch.setattr(Recording, "_write", counted)
    path = small_config(tmp_path, tiny_zoo, OUTPUTS | {"train": {"prefetch": False}})
    assert said(["train", str(path)], capsys) == (0, "")
    assert len(views) > 4 and layers and not any(layers)
    assert all(view.kv is None and view.output is not None for view in views)
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    train = [line for line in lines if line["kind"] == "train"]
    assert [set(line["terms"]) for line in train] == [{"ce", "projected_kl"}] * 2
    assert "gates" not in train[0] and set(train[0]["coverage"].values()) == {1.0}
    (phase,) = json.loads((tmp_path / "run/summary.json").read_text())["phases"]
    assert phase["fit"] == {} == phase["layer_map"]
    assert set(phase["coverage"]) == {"gpt2-prose", "qwen-code"}
    both = load_config(path), load_config(path, ["phase.all.loss.lambda_k=1"])
    silent, comparing = (
        {line.what: line.size for line in memory_plan(config)} for config in both
    )
    met = {"keys and values, 1 batches", "bridge and router, float32"}
    assert not met & set(silent) and met <= set(comparing)
    assert "activations, outcome pass" not in silent
    code, message = said(["extract", str(path)], capsys)
    assert code == 2 and "no phase learns from keys and values" in message
    assert main(["report", str(tmp_path / "run")]) == 0
