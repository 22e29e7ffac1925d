"""What each teacher was worth: worked out by hand, then in a run."""

import json

import pytest

from experiments.cli import main
from experiments.config.parsing import ConfigError
from experiments.config.tree import load_config, resolve_phase
from experiments.run.arms import plan_arms, without_stage
from experiments.run.context import Stage
from experiments.run.gates import Judgement
from experiments.run.ledger import ledger, mean_share
from tests.experiments.small_runs import said, small_config

KEPT = Judgement((), rolled_back=False, own_text=False)
UNDONE = Judgement((), rolled_back=True, own_text=False)


def weights(phase, prose, code):
    rows = {"prose": {"a": prose, "b": 1 - prose}, "code": {"a": code, "b": 1 - code}}
    return {"kind": "routing", "phase": phase, "weights": rows}


def test_the_account_holds_share_coverage_own_bits_and_what_is_lost():
    results = {
        "main": [
            {"name": "one", "teachers": ["a"], "bpc": {}, "coverage": {"a": 0.5}},
            {
                "name": "two",
                "teachers": ["a", "b"],
                "bpc": {"prose": 2.0, "code": 3.0},
                "coverage": {"a": 0.9, "b": 0.8},
            },
        ],
        "without:b": [
            {"bpc": {"prose": 9.0, "code": 9.0}},
            {"bpc": {"prose": 2.5, "code": 2.75}},
        ],
    }
    lines = [weights("two", 0.2, 0.6), weights("two", 0.4, 0.8)]
    account = ledger(results, [KEPT, KEPT], lines, {"a": {"prose": 1.5, "code": 1.0}})
    assert account["b"] == {
        "phase": "two",
        "share": pytest.approx({"prose": 0.7, "code": 0.3}),
        "coverage": 0.8,
        "bpc": None,
        "without": {"prose": 2.5, "code": 2.75},
        "loses": {"prose": 0.5, "code": -0.25},
    }
    assert account["a"]["without"] is None
    assert account["a"]["coverage"] == 0.9
    undone = ledger(results, [KEPT, UNDONE], lines, {})
    assert list(undone) == ["a"]
    assert undone["a"]["phase"] == "one"
    assert ledger(results, [UNDONE, UNDONE], lines, {}) == {}


def test_the_account_tells_every_metric_that_both_arms_have():
    main_arm = {"name": "two", "teachers": ["a"], "coverage": {"a": 1.0}}
    main_arm |= {"bpc": {"de": 2.0}, "metrics": {"chrf": {"de": 30.0, "fr": 9.0}}}
    without = {"bpc": {"de": 2.5}, "metrics": {"chrf": {"de": 27.5}, "bleu": {"de": 1}}}
    results = {"main": [main_arm], "without:a": [without]}
    account = ledger(results, [KEPT], [], {})
    assert account["a"]["more"] == {"chrf": {"de": -2.5}}


def test_a_domain_counts_where_the_window_held_it():
    lines = [weights("p", 0.2, 0.6), {"weights": {"prose": {"a": 0.6, "b": 0.4}}}]
    assert mean_share(lines, "a") == pytest.approx({"prose": 0.4, "code": 0.6})


@pytest.fixture
def stage(presets):
    """A phase of three teachers with fixed weights of their own."""
    config = load_config(
        {
            "teachers": {name: f"zoo:{name}" for name in "abc"},
            "phase": {"multi_basic": {"fuse": {"weights": [3.0, 2.0, 1.0]}}},
        }
    )
    return Stage(resolve_phase(config, "multi_basic", presets), ("a", "b", "c"))


def test_leaving_one_out_leaves_the_others_their_weights(stage):
    left = without_stage(stage, "b")
    assert left.teachers == ("a", "c")
    assert left.phase.fuse.weights == [3.0, 1.0]
    last = without_stage(left, "a")
    assert last.teachers == ("c",)
    assert last.phase.fuse.weights == [1.0]
    assert without_stage(last, "c").teachers == ()
    assert without_stage(stage, "z") is stage


def test_arms_are_those_that_were_asked_for(stage):
    def arms(wanted):
        baselines = {"single_teachers": "none", "leave_one_out": wanted}
        teachers = {name: f"zoo:{name}" for name in "abcd"}
        config = load_config({"teachers": teachers, "baselines": baselines})
        return list(plan_arms(config, [stage]))

    assert arms("none") == ["main", "ce_only"]
    assert arms(["b"]) == ["main", "ce_only", "without:b"]
    assert arms("all")[2:] == ["without:a", "without:b", "without:c"]
    with pytest.raises(ConfigError, match=r"names 'd', which no phase takes.*a, b, c"):
        arms(["d"])
    with pytest.raises(ConfigError, match="leave_one_out names 'e'"):
        arms(["e"])


@pytest.mark.slow
def test_a_run_draws_up_its_account(tiny_zoo, tmp_path, capsys):
    changes = {"baselines": {"leave_one_out": ["qwen-code"]}}
    config = small_config(tmp_path, tiny_zoo, changes)
    assert said(["train", str(config)], capsys) == (0, "")
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    account = summary["ledger"]
    assert list(account) == ["gpt2-prose", "qwen-code"]
    entry = account["qwen-code"]
    assert entry["share"] == {"text": pytest.approx(0.5, abs=0.1)}
    assert entry["bpc"] == summary["teachers"]["qwen-code"]["bpc"]
    with_it = summary["phases"][0]["bpc"]["text"]
    assert entry["loses"]["text"] == entry["without"]["text"] - with_it
    report = (run / "report.md").read_text()
    assert f"| {entry['loses']['text']:+.3f} |" in report
    assert main(["status", str(run)]) == 0
    assert "without:qwen-code" in capsys.readouterr().out
