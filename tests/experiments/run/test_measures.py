"""Evaluators in a run: after phases, within them, and what is decided by them."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest

from experiments.config.measuring import GateConfig
from experiments.config.parsing import ConfigError
from experiments.config.tree import load_config
from experiments.evaluators.chosen import evaluators_of
from experiments.record.metrics import Metrics
from experiments.record.run_dir import mean_bpc
from experiments.report.evaluation.sections import measurements_of
from experiments.run.gates import describe_harm, judge
from experiments.run.measures.students import numbers
from plugins import Registry
from tests.experiments.small_runs import said, small_config


def of(*settings):
    registry = Registry.load(entry_points=False)
    config = load_config(None, list(settings))
    phase = SimpleNamespace(name="dual", train=config.train)
    return evaluators_of(config, [phase], registry)


def test_bits_per_character_are_always_measured():
    assert list(of("eval.use=[size]").by_name) == ["bits_per_char", "size"]
    assert list(of().by_name) == ["bits_per_char"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["gate.metric=bleu"], "gate.metric is 'bleu', which nothing in eval.use"),
        (["train.keep_best=bits_per_char"], "but eval.every is 0"),
        (
            ["train.early_stop.metric=chrf", "eval.every=5"],
            "train.early_stop.metric is 'chrf', which nothing",
        ),
        (["eval.every=5", "train.zero_stage=3"], "train.zero_stage=3 splits"),
        (["samples.during=true"], "samples.during is true, but eval.every is 0"),
        (["eval.use=[sise]"], "did you mean 'size'"),
    ],
)
def test_what_cannot_decide_is_refused_before_any_work(settings, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        of(*settings)


def test_the_gate_may_decide_by_what_is_better_when_higher():
    gate = GateConfig(metric="bleu", tolerance=0.1)
    references = {"before": {"de": 20.0, "fr": 10.0}}
    found = judge({"de": 17.9, "fr": 9.1}, references, gate, False, lower=False)
    assert [harm.domain for harm in found.harms] == ["de"]
    assert describe_harm(found.plain()) == (
        "de 17.900, 10.5% less of bleu than before the phase (20.000)"
    )


def test_gates_of_earlier_versions_are_still_described():
    harm = {"domain": "a", "against": "ce_only", "bpc": 2.4, "reference": 2.0}
    old = {"harms": [harm], "rolled_back": False, "own_text": True}
    assert describe_harm(old) == "a 2.400, 20.0% more than CE only (2.000)"


def test_metrics_are_found_by_name_in_results_of_both_versions():
    result = {"bpc": {"a": 2.0}, "gate_bpc": {"a": 2.1}}
    assert numbers(result, "bits_per_char") == {"a": 2.0}
    assert numbers(result, "bits_per_char", own_text=True) == {"a": 2.1}
    assert numbers({"metrics": {"bleu": {"de": 1.0}}}, "bleu") == {"de": 1.0}


CHANGES = {
    "eval": {"use": ["calibration", "size", "errors"], "every": 1},
    "train": {
        "steps": 6,
        "learning_rate": 0.3,
        "checkpoint_every": 2,
        "keep_best": "bits_per_char",
        "early_stop": {"metric": "calibration_error", "patience": 4},
    },
    "baselines": {"ce_only": True},
}


@pytest.fixture(scope="module")
def watched(tiny_zoo, tmp_path_factory):
    """A finished run that was far too fast, so that it got worse."""
    folder = tmp_path_factory.mktemp("watched")
    from experiments.cli import main

    assert main(["train", str(small_config(folder, tiny_zoo, CHANGES))]) == 0
    return folder


def lines(run, kind, arm="main"):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind and row["arm"] == arm]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_best_student_goes_on_and_the_last_lies_beside_it(watched):
    run = watched / "run"
    (phase,) = json.loads((run / "summary.json").read_text())["phases"]
    bits = {
        line["step"]: mean_bpc(line["metrics"]["bits_per_char"])
        for line in lines(run, "watch")
    }
    best = min(bits, key=bits.get)
    assert phase["best"]["step"] == best
    assert phase["best"]["value"] == bits[best]
    assert phase["steps"] == max(bits)
    folder = run / "phases" / "1-dual"
    assert weights(folder / "student") == weights(run / "student")
    differs = weights(folder / "last") != weights(folder / "student")
    assert differs == (best != phase["steps"])
    assert weights(run / "student-last") == weights(folder / "last")


@pytest.mark.slow
def test_summary_and_report_hold_every_metric_of_students_and_teachers(watched):
    run = watched / "run"
    summary = json.loads((run / "summary.json").read_text())
    (phase,) = summary["phases"]
    assert phase["metrics"].keys() >= {"calibration_error", "parameters"}
    assert phase["ce_only_metrics"]["parameters"] == phase["metrics"]["parameters"]
    assert set(summary["evaluation"]["teachers"]["models"]) == set(summary["teachers"])
    report = (run / "report.md").read_text()
    assert "## Quality, size and speed" in report
    assert "How much of a teacher's number the student keeps" in report
    assert "| kind of text | bits/char | more | % |" in report


@pytest.mark.slow
def test_a_stopped_run_keeps_its_best_and_its_patience(
    watched, tmp_path, monkeypatch, capsys
):
    parts = tmp_path / "parts"
    shutil.copytree(watched, parts)
    shutil.rmtree(parts / "run")
    config, write = str(watched / "config.yaml"), Metrics.write

    def write_and_signal(self, arm, phase, line, offset=0):
        write(self, arm, phase, line, offset)
        if (arm, line["kind"], line.get("step")) == ("main", "watch", 3):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write", write_and_signal)
        assert said(["train", config, f"run.dir={parts}"], capsys)[0] == 75
    assert said(["train", config, f"run.dir={parts}"], capsys) == (0, "")
    whole, again = watched / "run", parts / "run"
    for place in ("student", "student-last"):
        assert weights(whole / place) == weights(again / place)
    (one,), (two,) = (
        json.loads((run / "summary.json").read_text())["phases"]
        for run in (whole, again)
    )
    assert one["best"] == two["best"] and one["steps"] == two["steps"]


def test_summaries_of_earlier_versions_have_no_such_section():
    old = {"phases": [{"name": "dual", "bpc": {"a": 2.0}}], "final_phase": "dual"}
    assert measurements_of(old) is None
    assert measurements_of({}) is None
