"""What is warned of while a phase trains, worked out by hand on metric lines."""

import json
import math

import pytest

from align.foreign.quote import in_markdown
from experiments.cli import main
from experiments.config.measuring import AlarmConfig
from experiments.config.parsing import ConfigError
from experiments.config.tree import load_config
from experiments.run.alarms import Alarms, short_of
from experiments.run.driver import run_training
from tests.experiments.small_runs import small_config

START = {"std_k": 2.0, "std_v": 1.0, "rank_k": 40.0, "rank_v": 20.0}


@pytest.fixture
def watch():
    """Alarms of a phase of 100 steps, and what they have shown."""

    def build(routed=True, **settings):
        shown = []
        config = AlarmConfig(**settings)
        return Alarms(
            config=config,
            steps=100,
            start=START,
            min_coverage=0.5,
            routed=routed,
            warn=shown.append,
        ), shown

    return build


def health(step=25, **changed):
    return {"kind": "health", "step": step, **START, **changed}


def routing(step, prose, code, entropy):
    weights = {
        "prose": {"a": prose, "b": 1 - prose},
        "code": {"a": code, "b": 1 - code},
    }
    return {"kind": "routing", "step": step, "weights": weights, "entropy": entropy}


def names(lines):
    return [line["alarm"] for line in lines if "alarm" in line]


def test_health_is_compared_with_the_phases_start(watch):
    alarms, shown = watch()
    (line,) = alarms.see(health(std_k=1.2, rank_v=30.0))
    assert line["against_start"] == {
        "std_k": 0.6,
        "std_v": 1.0,
        "rank_k": 1.0,
        "rank_v": 1.5,
    }
    assert line["skipped"] == 0
    assert shown == []


def test_a_collapse_warns_at_once_and_once(watch):
    alarms, shown = watch()
    line, event = alarms.see(health(step=50, std_k=0.4))
    assert line["std_k"] == 0.4
    assert event["alarm"] == "collapse std_k"
    assert event["step"] == 50
    assert "the student's key spread is 20% of what it was" in event["event"]
    assert "alarms.min_spread is 25%" in event["event"]
    assert shown == [f"step 50: {event['event']}"]
    assert names(alarms.see(health(step=75, std_k=0.3))) == []
    assert names(alarms.see(health(step=75, rank_v=9.0))) == ["collapse rank_v"]
    assert len(shown) == 2


def test_measurements_that_are_not_finite_count_as_collapsed(watch):
    alarms, _ = watch()
    assert names(alarms.see(health(rank_k=math.nan))) == ["collapse rank_k"]


def test_thresholds_are_settings(watch):
    strict, _ = watch(min_rank=0.9)
    assert names(strict.see(health(rank_k=35.0))) == ["collapse rank_k"]
    off, _ = watch(min_spread=0.0)
    assert names(off.see(health(std_k=0.01))) == []


def test_a_router_that_asks_one_teacher_everywhere_has_collapsed(watch):
    alarms, shown = watch()
    # One domain alone may rightly use one teacher.
    assert names(alarms.see(routing(5, 0.99, 0.01, 0.05))) == []
    found = alarms.see(routing(10, 0.99, 0.97, 0.05))
    assert names(found) == ["routing collapsed"]
    assert "'a' takes 98.0% of the weight over 2 domains" in shown[0]


def test_a_router_may_start_uniform_but_not_stay_so(watch):
    alarms, _ = watch()
    even = math.log(2)
    assert names(alarms.see(routing(50, 0.5, 0.5, even))) == []
    assert names(alarms.see(routing(51, 0.5, 0.5, even))) == ["routing uniform"]


def test_fixed_weights_are_nobodys_fault(watch):
    alarms, _ = watch(routed=False)
    assert names(alarms.see(routing(90, 1.0, 1.0, 0.0))) == []


def test_coverage_is_judged_by_its_mean_over_the_phase(watch):
    alarms, shown = watch()
    assert alarms.covers({"a": 0.9, "b": 0.55}) == []

    def train(step, a, b):
        return {"kind": "train", "step": step, "coverage": {"a": a, "b": b}}

    assert names(alarms.see(train(5, 0.9, 0.52))) == []
    assert names(alarms.see(train(10, 0.9, 0.5))) == []  # 0.51 on the mean
    assert names(alarms.see(train(15, 0.9, 0.4))) == ["coverage b"]
    assert "teacher 'b' covers only 47% of the student's tokens" in shown[0]
    assert "align.min_coverage is 50%" in shown[0]


@pytest.mark.parametrize(
    ("share", "least", "words"),
    [
        (0.47, 0.5, ("47%", "50%")),
        (0.9962, 1.0, ("99.6%", "100.0%")),
        (0.5 - 1e-9, 0.5, ("less than 50%", "50%")),
    ],
)
def test_a_share_and_its_bar_are_told_apart(share, least, words):
    assert short_of(share, least) == words


def test_a_term_that_compares_nothing_for_three_lines_is_told(watch):
    alarms, shown = watch()

    def train(step, *empty):
        return {"kind": "train", "step": step, **({"empty": [*empty]} if empty else {})}

    for step, empty in enumerate((["h"], ["h"], [], ["h", "kv_k"], ["h"]), 1):
        assert names(alarms.see(train(step, *empty))) == []
    assert names(alarms.see(train(6, "h", "kv_k"))) == ["empty h"]
    assert "term 'h' has found nothing to compare in 3 lines" in shown[0]
    assert names(alarms.see(train(7, "h", "kv_k"))) == []
    assert names(alarms.see(train(8, "kv_k"))) == ["empty kv_k"]


def test_a_run_whose_term_compares_no_token_says_so(tmp_path, tiny_zoo, capsys):
    hidden = {"use": "match", "site": "hidden", "distance": "mse"}
    off = dict.fromkeys(("lambda_k", "lambda_v", "beta_cos", "gamma_kl"), 0)
    loss = off | {"outcome_every": 0, "skip_sinks": 1000}
    loss["terms"] = {"h": hidden | {"projector": "linear"}}
    config = small_config(tmp_path, tiny_zoo, {"train": {"steps": 3}, "loss": loss})
    run = run_training(load_config(config))
    lines = list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))
    assert [line["empty"] for line in lines if line["kind"] == "train"] == [["h"]] * 3
    assert "empty h" in [line.get("alarm") for line in lines]
    said = capsys.readouterr().err
    assert "term 'h' has found nothing to compare in 3 lines" in said


def test_low_coverage_is_known_before_the_first_step(watch):
    alarms, shown = watch()
    (event,) = alarms.covers({"a": 0.2})
    assert (event["kind"], event["step"], event["alarm"]) == ("event", 0, "coverage a")
    assert shown[0].startswith("teacher 'a' covers only 20%")


def test_a_teacher_that_never_varies_is_known_before_the_first_step(watch):
    alarms, shown = watch()
    (event,) = alarms.mute({"a": {"keys": [0, 1], "values": [3]}})
    assert (event["step"], event["alarm"]) == (0, "constant a")
    assert shown[0].startswith(
        "teacher 'a' says the same of every token: its keys for the student's layers "
        "0, 1 and its values for the student's layer 3 do not vary"
    )
    assert alarms.mute({"a": {"keys": [0]}}) == []


def written(step, length=40.0, repetition=0.1):
    line = {"kind": "written", "step": step, "length": length}
    return line if repetition is None else line | {"repetition": repetition}


def test_writing_that_repeats_itself_or_grows_short_has_collapsed(watch):
    alarms, shown = watch(min_length=0.25)
    assert names(alarms.see(written(1))) == []
    assert names(alarms.see(written(51, length=10.0))) == []
    assert names(alarms.see(written(101, length=9.0))) == ["written length"]
    assert names(alarms.see(written(151, repetition=0.51))) == ["written repetition"]
    assert names(alarms.see(written(201, 0.0, 0.9))) == []  # said already
    assert len(shown) == 2 and "9.0 tokens" in shown[0] and "40.0" in shown[0]
    again, _ = watch()
    again.recall([written(1), {"kind": "event", "alarm": "written repetition"}])
    assert names(again.see(written(51, length=9.0, repetition=0.9))) == [
        "written length"
    ]


def test_writing_that_is_empty_from_the_start_has_collapsed(watch):
    alarms, _ = watch()
    unread = {"kind": "written", "step": 1, "read": 0, "texts": 0}
    assert names(alarms.see(unread)) == []
    assert names(alarms.see(written(1, 0.0, None))) == ["written length"]


def test_skipped_steps_are_counted_and_named(watch):
    alarms, shown = watch(max_skipped=1)
    bad = {"kind": "event", "event": "non-finite loss", "step": 3, "samples": ["t:1"]}
    assert alarms.see(bad) == [bad]
    assert names(alarms.see(bad | {"step": 4})) == ["non-finite"]
    assert "step 4: non-finite loss on samples t:1" in shown[0]
    assert "2 so far" in shown[0]
    assert alarms.see(health())[0]["skipped"] == 2


def test_what_was_said_before_an_interruption_is_not_said_again(watch):
    before, shown = watch()
    bad = {"kind": "event", "event": "non-finite loss", "step": 3, "samples": []}
    written = [
        *before.see(bad),
        *before.see(health(std_k=0.1)),
        *before.see({"kind": "train", "step": 5, "coverage": {"a": 0.9}}),
    ]
    assert len(shown) == 2
    after, again = watch()
    after.recall(written)
    (line,) = after.see(health(std_k=0.1))
    assert line["skipped"] == 1
    assert after.see({"kind": "train", "step": 9, "coverage": {"a": 0.2}})[1:] == []
    assert again == []


def test_wrong_thresholds_are_refused():
    with pytest.raises(
        ConfigError, match=r"alarms\.min_rank is 50; give a number in \[0, 1\]"
    ):
        load_config(None, ["alarms.min_rank=50"])
    with pytest.raises(
        ConfigError, match=r"alarms\.health_every is -1; give an integer >= 0"
    ):
        load_config(None, ["alarms.health_every=-1"])


@pytest.mark.slow
def test_a_run_measures_warns_and_reports(tiny_zoo, tmp_path, capsys):
    # As if the student had to gain spread: nothing but the threshold is made up, and
    # keys and values of random weights shrink by a tenth and more within a few steps.
    changes = {
        "alarms": {"health_every": 2, "min_spread": 1.0, "min_rank": 0.0},
        "train": {"steps": 5},
    }
    assert main(["train", str(small_config(tmp_path, tiny_zoo, changes))]) == 0
    run = tmp_path / "run"
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found = [row for row in rows if row["kind"] in ("health", "event")]
    measured = [row for row in found if row["kind"] == "health"]
    assert [row["step"] for row in measured] == [1, 3, 5]
    # Before the first step the student is as it was: the same text, the same KV.
    assert measured[0]["against_start"] == pytest.approx(
        dict.fromkeys(START, 1.0), rel=1e-4
    )
    assert measured[2]["against_start"]["rank_k"] != pytest.approx(1.0, rel=1e-4)
    raised = [row for row in found if str(row.get("alarm", "")).startswith("collapse")]
    assert {row["alarm"] for row in raised} == {"collapse std_k", "collapse std_v"}
    shown = capsys.readouterr().err
    report = (run / "report.md").read_text()
    for event in raised:
        assert shown.count(event["event"]) == 1
        assert in_markdown(event["event"]) in report


def test_the_rank_of_untrained_weights_may_settle_first(watch):
    """Noise has full rank: 40 falls to 10 as an untrained student learns anything."""
    alarms, shown = watch()
    assert names(alarms.see(health(step=10, rank_k=10.0))) == []
    assert names(alarms.see(health(step=50, rank_k=6.0))) == []
    assert names(alarms.see(health(step=75, rank_k=4.0))) == ["collapse rank_k"]
    assert "40% of what it was once it had settled" in shown[0]

    resumed, _ = watch()
    resumed.recall(watch()[0].see(health(step=10, rank_k=10.0)))
    assert names(resumed.see(health(step=50, rank_k=6.0))) == []
