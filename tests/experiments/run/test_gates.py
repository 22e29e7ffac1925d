"""A phase that does harm is found, named and, if asked for, undone in every arm."""

import json
import math
import os
import shutil
import signal

import pytest
from safetensors.torch import load_file

from align.text.documents import TextSample
from experiments.assemble.data import gate_text
from experiments.cli import main
from experiments.config.measuring import GateConfig
from experiments.config.parsing import ConfigError
from experiments.config.tree import load_config
from experiments.record.metrics import Metrics
from experiments.run.gates import Harm, describe_harm, judge, kept_before
from tests.experiments.small_runs import said, small_config

ROLLBACK = GateConfig(action="rollback", tolerance=0.1)


def test_more_than_the_tolerance_in_one_domain_is_harm():
    own = {"prose": 2.19, "code": 3.31}
    references = {"ce_only": {"prose": 2.0, "code": 3.0}, "before": {"prose": 2.0}}
    references["before"]["code"] = 4.0
    found = judge(own, references, ROLLBACK, own_text=True)
    assert found.harms == (Harm("code", "ce_only", 3.31, 3.0),)
    assert found.rolled_back
    assert judge(own, references, GateConfig(tolerance=0.11), True).harms == ()


def test_reporting_keeps_what_was_harmed():
    found = judge({"all": 3.0}, {"before": {"all": 2.0}}, GateConfig(), own_text=False)
    assert len(found.harms) == 1
    assert not found.rolled_back
    text = describe_harm(found.plain())
    assert text == "all 3.000, 50.0% more than before the phase (2.000)"


def test_without_a_ce_only_arm_the_student_before_remains():
    references = {"ce_only": None, "before": {"all": 2.0}}
    assert judge({"all": 2.1}, references, ROLLBACK, True).harms == ()
    assert judge({"all": 2.3}, references, ROLLBACK, True).rolled_back


def test_a_student_that_is_not_finite_has_been_harmed():
    found = judge({"all": math.nan}, {"before": {"all": 2.0}}, ROLLBACK, True)
    assert found.rolled_back


def test_the_worst_harm_is_named_first():
    references = {"ce_only": {"a": 2.0, "b": 2.0}}
    found = judge({"a": 2.4, "b": 3.0}, references, ROLLBACK, True)
    assert describe_harm(found.plain()) == (
        "b 3.000, 50.0% more than CE only (2.000); "
        "a 2.400, 20.0% more than CE only (2.000)"
    )
    assert describe_harm(judge({"a": 2.0}, references, ROLLBACK, True).plain()) == ""


def test_the_next_phase_starts_from_the_last_that_was_kept():
    good = judge({"a": 1.0}, {"before": {"a": 2.0}}, ROLLBACK, True)
    bad = judge({"a": 3.0}, {"before": {"a": 2.0}}, ROLLBACK, True)
    assert kept_before([]) is None
    assert kept_before([bad]) is None
    assert kept_before([good, bad, bad]) == 0
    assert kept_before([good, bad, good]) == 2


def test_the_gate_reads_what_nothing_is_measured_on():
    def samples(domain, count):
        return [TextSample("text", domain, f"{domain}{i}") for i in range(count)]

    prose, code = samples("prose", 9), samples("code", 6)
    measured = prose[:4] + code[:4]
    gate = gate_text(prose + code, measured)
    assert [s.id for s in gate] == [s.id for s in prose[4:8] + code[4:6]]
    assert gate_text(prose + code[:5], measured) == []  # too little code


def test_wrong_settings_are_refused_with_what_is_valid():
    with pytest.raises(
        ConfigError, match=r"gate\.tolerance is -0\.1; give a number >= 0"
    ):
        load_config(None, ["gate.tolerance=-0.1"])
    with pytest.raises(ConfigError, match=r"gate\.action.*undo.*report.*rollback"):
        load_config(None, ["gate.action=undo"])


HARMFUL = {
    "phases": ["dual", "multi_basic", "routing"],
    "phase": {
        "all": {"teachers": {"min": 2}},
        "multi_basic": {"train": {"learning_rate": 1.0}},
    },
    "baselines": {"ce_only": True},
    "gate": {"action": "rollback", "tolerance": 0.2},
}


@pytest.fixture(scope="module")
def rolled_back(tiny_zoo, tmp_path_factory):
    """A finished run whose second phase was far too fast; its config."""
    folder = tmp_path_factory.mktemp("rolled-back")
    config = small_config(folder, tiny_zoo, HARMFUL)
    assert main(["train", str(config), "phase.routing.train.steps=0"]) == 0
    return folder


def weights(folder):
    return (folder / "student" / "model.safetensors").read_bytes()


def test_the_phase_after_a_harmful_one_starts_before_it_in_every_arm(rolled_back):
    run = rolled_back / "run"
    for arm in (run / "phases", run / "baselines" / "ce_only"):
        # It takes no step, so that it shows what it started from.
        assert weights(arm / "3-routing") == weights(arm / "1-dual")
        assert weights(arm / "3-routing") != weights(arm / "2-multi_basic")
    assert weights(run) == weights(run / "phases" / "3-routing")


def test_summary_report_and_metrics_say_what_was_rolled_back_and_why(rolled_back):
    run = rolled_back / "run"
    summary = json.loads((run / "summary.json").read_text())
    dual, harmful, after = summary["phases"]
    assert [p["gate"]["rolled_back"] for p in (dual, harmful, after)] == [0, 1, 0]
    assert harmful["gate"]["own_text"]
    assert after["previous"] == dual["bpc"]
    assert summary["final_phase"] == "routing"
    # CE only learned as fast: which of the two is worse off, nobody can say beforehand.
    (harm,) = (h for h in harmful["gate"]["harms"] if h["against"] == "before")
    assert harm["value"] == harmful["gate_bpc"][harm["domain"]]
    assert harm["reference"] == dual["gate_bpc"][harm["domain"]]
    assert harm["value"] > 2 * harm["reference"]
    report = (run / "report.md").read_text()
    assert "Rolled back for doing harm: multi_basic; the run's student is" in report
    assert "**multi_basic** was rolled back: " in report
    assert f"It hurt: {describe_harm(harmful['gate'])}." in report
    assert f"text {harm['value']:.3f}, " in describe_harm(harmful["gate"])
    assert "| rolled back |" in report
    assert "held-out text of its own" in report
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    gates = [row for row in rows if row["kind"] == "gate"]
    assert [row["rolled_back"] for row in gates] == [False, True, False]


@pytest.mark.slow
def test_another_verdict_does_not_pass_for_the_same_run(rolled_back, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(rolled_back, folder)
    words = [f"run.dir={folder}", "phase.routing.train.steps=0"]
    config = str(folder / "config.yaml")
    assert said(["train", config, *words], capsys) == (0, "")
    code, message = said(["train", config, *words, "gate.action=report"], capsys)
    assert code == 2
    assert "3-routing belongs to another config" in message
    assert "rolled_back: stored ['multi_basic'], config null" in message


@pytest.mark.slow
def test_a_run_that_was_stopped_after_a_rollback_ends_where_it_would_have(
    rolled_back, tmp_path, monkeypatch, capsys
):
    # Undo the third phase of both arms, then train it with and without a stop.
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        shutil.copytree(rolled_back, folder)
        for old in folder.glob("run/**/3-routing*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    config = str(rolled_back / "config.yaml")
    assert said(["train", config, f"run.dir={whole}"], capsys) == (0, "")
    write = Metrics.write

    def write_and_signal(self, arm, phase, line, offset=0):
        write(self, arm, phase, line, offset)
        if (phase, line["kind"], line.get("step")) == ("routing", "train", 1):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write", write_and_signal)
        assert said(["train", config, f"run.dir={parts}"], capsys)[0] == 75
    assert said(["train", config, f"run.dir={parts}"], capsys) == (0, "")
    assert weights(parts / "run") == weights(whole / "run")
    assert weights(whole / "run") != weights(rolled_back / "run")


@pytest.mark.slow
def test_where_nothing_was_kept_the_student_is_the_one_it_began_with(
    tiny_zoo, tmp_path, capsys
):
    alone = {
        "train": {"learning_rate": 1.0},
        "gate": {"action": "report", "tolerance": 0.2},
    }
    config = str(small_config(tmp_path, tiny_zoo, alone))
    assert said(["train", config], capsys) == (0, "")
    run = tmp_path / "run"
    assert "It hurt: " in (run / "report.md").read_text()
    assert weights(run) == weights(run / "phases" / "1-dual")
    # The verdict can be changed: the finished phase is measured on the gate's text.
    capsys.readouterr()
    assert main(["train", config, "gate.action=rollback"]) == 0
    assert "warning: phase dual was rolled back: " in capsys.readouterr().err
    exported = load_file(run / "student" / "model.safetensors")
    first = load_file(tiny_zoo["student"] / "model.safetensors")
    assert all(exported[name].equal(first[name]) for name in exported)
    assert "the run's student is the one it began with" in (
        (run / "report.md").read_text()
    )
