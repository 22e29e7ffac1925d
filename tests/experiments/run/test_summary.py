"""Arms side by side, on numbers worked out by hand."""

import pytest

from experiments.config.measuring import GateConfig
from experiments.config.tree import load_config
from experiments.record.run_dir import helped
from experiments.run.gates import judge
from experiments.run.summary import summarize
from teacher.teacher_rule import TeacherFacts

FACTS = TeacherFacts(kind="decoder", family="gpt2")


def phases_of(results, teachers="ab", settings=()):
    """The summary's phases; every phase of the run was kept."""
    named = {name: {"model": name} for name in teachers}
    metric = [f"{name}={value}" for name, value in dict(settings).items()]
    config = load_config({"teachers": named}, metric)
    lower = not settings
    count = len(results["main"])
    kept = [judge({"all": 1.0}, {}, GateConfig(), own_text=False)] * count
    facts = dict.fromkeys(teachers, FACTS)
    start = {"all": 9.0}
    return summarize(config, results, kept, start, facts, lower=lower)["phases"]


def arm(*bits, teachers="ab"):
    return [
        {"name": f"p{i}", "teachers": list(teachers), "bpc": {"all": b}}
        for i, b in enumerate(bits)
    ]


def test_each_baseline_is_beaten_or_not_and_help_is_beating_both():
    results = {
        "main": arm(2.0, 1.8),
        "ce_only": arm(2.5, 1.7, teachers=""),
        "single:a": arm(2.1, 2.0, teachers="a"),
        "single:b": arm(1.9, 2.1, teachers="b"),
    }
    first, second = phases_of(results)
    assert first["best_single"] == {"teacher": "b", "bpc": {"all": 1.9}}
    assert second["best_single"]["teacher"] == "a"
    told = ("beats_ce_only", "beats_best_single", "helped")
    assert [first[key] for key in told] == [True, False, False]
    assert [second[key] for key in told] == [False, True, False]
    assert [phase["previous"] for phase in (first, second)] == [
        {"all": 9.0},
        {"all": 2.0},
    ]


def test_one_teacher_is_no_rival_of_itself_but_others_are():
    alone = arm(2.0, teachers="a")
    results = {"main": alone, "ce_only": arm(2.5, teachers=""), "single:a": alone}
    (phase,) = phases_of(results)
    assert phase["best_single"] == {"teacher": "a", "bpc": {"all": 2.0}}
    assert (phase["beats_best_single"], phase["helped"]) == (None, True)
    results["single:b"] = arm(1.5, teachers="b")
    (phase,) = phases_of(results)
    assert (phase["beats_best_single"], phase["helped"]) == (False, False)


def test_the_gates_metric_decides_whether_a_phase_helped():
    """Fewer bits than CE only, and a worse translation; the other way round."""

    def scored(bits, *scores):
        values = {"de": scores[0], "fr": scores[1]} if scores else {}
        metrics = {"chrf": values}
        return [
            {"name": "p", "teachers": ["a", "b"], "bpc": {"all": bits}}
            | {"metrics": metrics}
        ]

    results = {
        "main": scored(2.0, 10, 20),
        "ce_only": scored(2.5, 18, 14),
        "single:a": scored(1.9, 8, 18),
        "single:b": scored(2.2, 9, 19),
    }
    settings = {"gate.metric": "chrf"}
    (phase,) = phases_of(results, settings=settings)
    assert phase["by"] == {
        "metric": "chrf",
        "better": "higher",
        "value": 15,
        "ce_only": 16,
        "best_single": 14,
        "single_teacher": "b",
    }
    beats = ("beats_ce_only", "beats_best_single", "helped")
    assert [phase[key] for key in beats] == [False, True, False]
    assert phase["best_single"]["teacher"] == "a"  # by bits, as its column says
    results["main"] = scored(2.6, 17, 20)
    (phase,) = phases_of(results, settings=settings)
    assert [phase[key] for key in beats] == [True, True, True]
    results["main"] = scored(2.6)
    (phase,) = phases_of(results, settings=settings)
    assert [phase[key] for key in beats] == [None, None, None]


@pytest.mark.parametrize(
    ("ce_only", "single", "both"),
    [
        (None, None, None),
        (True, None, True),
        (None, False, False),
        (True, False, False),
        (True, True, True),
    ],
)
def test_only_what_was_trained_counts(ce_only, single, both):
    assert helped(ce_only, single) is both
