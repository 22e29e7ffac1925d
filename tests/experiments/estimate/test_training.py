"""What is said of a run's arms, steps, time and disk, before it and by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from align.text.documents import TextSample
from experiments.cli import main
from experiments.config.tree import load_config, resolve_phases
from experiments.estimate.asked import asked_shares
from experiments.estimate.needs import estimate
from experiments.estimate.training import (
    ArmNeeds,
    KeptAnswers,
    Pace,
    TrainingNeeds,
    advice,
    planned_answers,
    scoring_seconds,
)
from experiments.estimate.words import said_of
from experiments.run.context import Stage
from fuse.config import FuseConfig
from plugins.registry import Registry
from teacher.answers import Answers
from tests.experiments.small_runs import small_config

GIB = 2**30


def test_one_teacher_s_part_of_a_step_is_its_share_of_the_weights():
    pace = Pace(taught=5.0, alone=1.0, weights={"small": 1 * GIB, "large": 3 * GIB})
    assert pace.of(()) == 1.0
    assert pace.of(("small",)) == 2.0
    assert pace.of(("large",)) == 4.0
    assert pace.of(("small", "large")) == 5.0
    assert Pace(1.0, 1.0, {}).of(()) == 1.0


def test_peers_and_writing_come_on_top_where_they_are():
    pace = Pace(5.0, 1.0, {"ann": 1, "old": 3}, peers={"ann": 2.0}, writing=0.5)
    assert pace.of(()) == 1.0
    assert pace.of(("old",)) == 4.0 + 0.5
    assert pace.of(("ann",)) == 2.0 + 2.0 + 0.5
    assert pace.of(("ann", "old")) == 5.0 + 2.0 + 0.5


def test_a_baseline_s_teacher_that_a_phase_does_not_take_is_reckoned_all_the_same():
    weights = {"small": 1 * GIB, "large": 3 * GIB}
    pace = Pace(taught=3.0, alone=1.0, weights=weights, teachers=("small",))
    assert pace.of(("small",)) == 3.0
    assert pace.of(("large",)) == 7.0
    stored = Pace(3.0, 1.0, {"a": 0, "b": 0}, ("a", "b"))
    assert stored.of(("a",)) == 2.0


def test_scoring_is_reckoned_as_one_reading_a_scoring():
    def seconds(curriculum, **fuse):
        data = SimpleNamespace(curriculum=curriculum)
        train = SimpleNamespace(batch_size=4, grad_accum=2, checkpoint_every=10)
        trial = SimpleNamespace(
            config=SimpleNamespace(data=data),
            registry=Registry.load(entry_points=False),
            stages=[
                SimpleNamespace(
                    phase=SimpleNamespace(train=train, fuse=FuseConfig(**fuse))
                )
            ],
            learned=41,
        )
        pace = Pace(5.0, 1.0, {"ann": 1}, asking=3.0)
        return scoring_seconds(trial, [pace], [50], 2)

    # 41 texts are six batches of two processes; the phase has 25 steps
    assert seconds("none") == 0
    assert seconds({"use": "bands", "difficulty": "length"}) == 0
    assert seconds({"use": "bands", "difficulty": "student_bits"}) == 6 * 1.0
    assert seconds("adaptive") == 6 * 4.0
    assert seconds({"use": "adaptive", "rescore": True}) == 3 * 6 * 4.0
    by_teacher = {"use": "bands", "difficulty": "entropy", "rescore": 5}
    assert seconds(by_teacher) == 5 * 6 * 3.0
    bands = {"use": "difficulty", "difficulty": "student_bits"}
    hard = {"choice": "hard", "fusion_method": bands, "routing_level": "sample"}
    assert seconds("none", **hard) == 6 * 1.0
    assert seconds(by_teacher, **hard) == 6 * 4.0 + 4 * 6 * 3.0
    assert seconds("none", **hard | {"fusion_method": "difficulty"}) == 0  # by length


def test_teachers_that_rest_are_counted_for_the_texts_that_are_theirs(presets):
    def asked(level="sample", loss=None, **fuse):
        phase = {"teachers": {"max": 3}, "fuse": {"routing_level": level, **fuse}}
        phase["loss"] = loss or {}
        settings = {"phases": ["single"], "phase": {"single": phase}}
        config = load_config({"teachers": ["small", "large", "other"], **settings})
        (phase,) = resolve_phases(config, presets)
        texts = [
            TextSample("x" * (10 + n), "code" if n % 4 == 0 else "prose", str(n))
            for n in range(40)
        ]
        parameters = {"small": 10, "large": 30, "other": 20}
        models = SimpleNamespace(
            sharded=(),
            student_sizes=SimpleNamespace(hidden_size=8),
            chosen=lambda names: {
                name: SimpleNamespace(
                    sizes=SimpleNamespace(parameters=parameters[name])
                )
                for name in names
            },
        )
        trial = SimpleNamespace(
            config=config,
            registry=Registry.load(entry_points=False),
            models=models,
            usual=texts,
        )
        told = []
        shares = asked_shares(trial, Stage(phase, tuple(parameters)), told.append)
        return shares, told

    by_label = {"use": "label", "domains": {"code": "small", "prose": "large"}}
    shares, told = asked(choice="hard", fusion_method=by_label)
    assert shares == {"small": 0.25, "large": 0.75, "other": 0.0}
    assert len(told) == 1 and "no text is for teacher 'other'" in told[0]
    bands = {"use": "difficulty", "order": ["small", "large"], "bounds": [0.7]}
    shares, _ = asked(choice="hard", fusion_method=bands)
    assert shares == pytest.approx({"small": 0.7, "large": 0.3, "other": 0.0})
    shares, _ = asked(choice="hard", fusion_method=bands | {"difficulty": "gap"})
    assert shares == pytest.approx({"small": 0.7, "large": 0.3, "other": 0.0})
    soft, told = asked(fusion_method=by_label, level="token")
    assert soft == {"small": 0.25, "large": 0.75, "other": 0.0} and len(told) == 1
    everyone = ({}, [])
    assert asked(fusion_method=by_label, space="z") == everyone  # learns from them
    assert asked(fusion_method=by_label, temperature={"from": 1, "to": 2}) == everyone
    assert asked(fusion_method={"use": "label", "domains": {}}) == everyone
    moved = {"from": 1, "to": 2, "rule": "entropy"}
    assert asked(fusion_method=by_label, loss={"lambda_k": moved}) == everyone
    chosen = {"select": {"sure": {"use": "confident_teacher"}}}
    assert asked(fusion_method=by_label, loss=chosen) == everyone
    assert asked(weights=[1, 2, 3]) == everyone
    shares, (why,) = asked(level="token", choice="hard", fusion_method=by_label)
    assert shares == {} and "teachers that are not chosen run all the same" in why
    weights = {"small": 10, "large": 30, "other": 20}
    pace = Pace(9.0, 1.0, weights, tuple(weights), asking=6.0)
    resting = pace.resting({"small": 0.25, "large": 0.75, "other": 0.0})
    assert resting == pytest.approx(0.75 * 1.0 + 0.25 * 3.0 + 1.0 * 2.0)
    run = replace(
        needs(("main", 40.0)),
        asked={"single": {"small": 0.25, "large": 0.75}},
        resting=90.0,
        scoring=30.0,
        notes=[why],
    )
    sentences = said_of(run)
    assert (
        "phase single: of the texts a teacher is asked about: small 25%, large 75%"
        in (sentences)
    )
    assert any("which spares 1 min" in sentence for sentence in sentences)
    assert any("scoring the texts takes 30 s" in sentence for sentence in sentences)
    assert why in sentences


def needs(*arms):
    rows = [ArmNeeds(name, 2, 10, seconds) for name, seconds in arms]
    return TrainingNeeds(
        machine="a machine",
        arms=rows,
        repeated={},
        exports=5 * GIB,
        checkpoints=2 * GIB,
        answers=KeptAnswers(disk=1 * GIB),
        free=100 * GIB,
    )


def test_what_baselines_multiply_is_said_with_what_makes_it_cheaper():
    arms = [("main", 40.0), ("ce_only", 10.0), ("single:a", 20.0), ("single:b", 30.0)]
    run = needs(*arms)
    assert (run.seconds, run.students, run.disk) == (100.0, 9, 8 * GIB)
    assert "2 of 4 arms train one teacher alone" in advice(run)
    assert "50% of the time: baselines.single_teachers=none" in advice(run)
    assert advice(needs(("main", 40.0), ("ce_only", 10.0))) == ""


BOTH = {
    "baselines": {"ce_only": True, "single_teachers": "all"},
    "loss": {"lambda_k": {"from": 1.0, "to": 0.5}},  # over the phase, however long
    "train": {"steps": 5, "checkpoint_every": 2, "keep_checkpoints": 1},
}


@pytest.mark.slow
def test_a_run_has_the_arms_steps_and_bytes_that_were_said(
    tiny_zoo, tmp_path, monkeypatch, capsys
):
    from student.loop import phase_checkpoint

    held, kept = [], []
    prune, hold = phase_checkpoint.prune, Answers._hold

    def noted(answers, *given):
        hold(answers, *given)
        places = answers._places.values()
        kept.append(sum(p.size for p in places if p.chapter != "calibration"))

    def weighed(folder, keep):
        held.append(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))
        prune(folder, keep)

    config = str(small_config(tmp_path, tiny_zoo, BOTH))
    assert main(["estimate", config, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["training"]
    monkeypatch.setattr(phase_checkpoint, "prune", weighed)
    monkeypatch.setattr(Answers, "_hold", noted)
    assert main(["train", config]) == 0
    run = tmp_path / "run"
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    taken = [(r["arm"], r["phase"]) for r in rows if r["kind"] == "train"]
    arms = {arm["arm"]: arm["steps"] for arm in said["arms"]}
    assert arms == {name: 5 for name, _ in taken}
    assert len(taken) == 5 * len(arms) == 20
    assert all(arm["seconds"] > 0 for arm in said["arms"])
    students = list(run.rglob("model.safetensors"))
    assert len(students) == 4 + 1
    size = sum(file.stat().st_size for file in students)
    assert said["exports"] == pytest.approx(size, rel=0.05)
    # Two were there for a moment; records and headers weigh much of so small a state.
    assert max(held) == pytest.approx(said["checkpoints"], rel=0.25)
    # Padded to the longest text of each batch, of which one was measured.
    assert max(kept) == pytest.approx(said["answers"]["memory"], rel=0.25)


def test_answers_that_are_kept_spare_all_arms_but_the_first(presets, tmp_path):
    def planned(asked=None, **settings):
        names = {"run": {"dir": str(tmp_path)}, "teachers": ["p", "q", "r"]}
        config = load_config({**names, "answers": settings})
        live = dict.fromkeys(["p", "q", "r"])
        models = SimpleNamespace(standing=live, sharded=("r",))
        phase = resolve_phases(config, presets)[0]
        both, p, q, r, nobody = (Stage(phase, tuple(t)) for t in ["pqr", *"pqr", ""])
        arms = {"main": [both], "ce_only": [nobody], "p": [p], "q": [q], "r": [r]}
        pace = Pace(
            9.0,
            1.0,
            {"p": 3, "q": 1, "r": 4, "s": 0},
            asking=4.0,
            answers={"p": GIB, "q": GIB, "r": GIB},
        )
        trial = SimpleNamespace(config=config, models=models)
        return planned_answers(trial, arms, [pace], [2], asked or {})

    answers, spared = planned(memory_gib=100)
    assert answers == KeptAnswers(memory=4 * GIB, disk=0, share=1.0)  # of p and q
    assert spared == {"main": 0, "ce_only": 0, "p": 2 * 1.5, "q": 2 * 0.5, "r": 0}
    answers, spared = planned(memory_gib=1, disk_gib=2**-20)
    assert answers.memory == GIB and answers.disk == 2**10
    assert answers.share == pytest.approx(0.25, abs=1e-5)
    assert spared["p"] == pytest.approx(0.75, abs=1e-5)
    assert planned(keep="none") == (KeptAnswers(), dict.fromkeys(spared, 0))
    assert planned(keep=["q"], memory_gib=100)[1]["p"] == 0
    rests = {"main": [{"p": 0.5, "q": 1.0, "r": 0.2}]}
    answers, spared = planned(rests, memory_gib=100)
    assert answers.memory == 2 * GIB  # of q: the arm p asks about other batches
    assert (spared["p"], spared["q"]) == (0, 2 * 0.5)


@pytest.mark.slow
def test_arms_that_another_trains_already_cost_nothing(tiny_zoo, tmp_path, capsys):
    words = [str(small_config(tmp_path, tiny_zoo, BOTH)), "phases=[single]"]
    words.append("phase.single.teachers=[gpt2-prose]")
    words.append("data.curriculum={use: bands, difficulty: student_bits}")
    found = estimate(load_config(words[0], words[1:])).training
    assert [arm.arm for arm in found.arms] == ["main", "ce_only"]
    assert found.repeated == {"single:gpt2-prose": "main"}
    assert main(["estimate", *words]) == 0
    shown = capsys.readouterr().out
    assert "not trained again: single:gpt2-prose is main" in shown
    assert found.scoring > 0 and "scoring the texts takes " in shown
    assert "steps as " in shown and "disk of the run: 3 students" in shown
