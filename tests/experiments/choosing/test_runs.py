"""Runs in which teachers rest on the texts that they are not chosen for."""

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from experiments.cli import main
from experiments.config.parsing import merge
from experiments.run import phase
from fuse.beforehand.choose import TextChoice
from student.loop.trainer import _Loop
from tests.experiments.small_runs import small_config

FIRST, SECOND = "gpt2-prose", "qwen-code"
ONE_PHASE = {
    "phases": ["single"],
    "phase": {"single": {"teachers": {"max": 2}, "loss": {"outcome_every": 2}}},
}


def lines_of(run, kind="train"):
    rows = (run / "metrics.jsonl").read_text().splitlines()
    return [line for row in rows if (line := json.loads(row))["kind"] == kind]


def students(run):
    (folder,) = run.glob("phases/*/student")
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def train(tmp_path_factory, tiny_zoo):
    base = tmp_path_factory.mktemp("named")

    def run(teachers=(FIRST, SECOND), name=None, ends=0, **changes):
        new = tmp_path_factory.mktemp
        folder = new("chosen") if name is None else base / name
        folder.mkdir(exist_ok=True)
        config = small_config(folder, tiny_zoo, ONE_PHASE | changes)
        tree = yaml.safe_load(config.read_text())
        tree["teachers"] = {name: tree["teachers"][name] for name in teachers}
        config.write_text(yaml.safe_dump(tree, sort_keys=False))
        assert main(["train", str(config)]) == ends
        return folder / "run"

    return run


@pytest.mark.slow
def test_one_of_several_that_is_always_chosen_is_bitwise_the_single_teacher_run(train):
    """Fails when a teacher that rests is compared, fused or counted anywhere."""
    steps = {"train": {"steps": 3, "grad_accum": 2, "batch_size": 2}}
    alone = train([FIRST], **steps)
    both = train(
        fuse={"choice": "hard", "routing_level": "sample", "weights": [1, 0]}, **steps
    )
    for mine, theirs in zip(lines_of(alone), lines_of(both), strict=True):
        assert mine["loss"] == theirs["loss"] and mine["terms"] == theirs["terms"]
    kept = students(both)
    for name, weight in students(alone).items():
        assert torch.equal(weight, kept[name]), name
    assert {line["asked"][SECOND] for line in lines_of(both)} == {0.0}
    (phase,) = json.loads((both / "summary.json").read_text())["phases"]
    assert phase["choice"]["asked"] == {FIRST: 1.0, SECOND: 0.0}
    assert phase["choice"]["steps"] == 3 and phase["choice"]["teachers_s"] > 0


class Killed(RuntimeError):
    """As a machine would."""


DRAWN = {
    "text": {"choice": "sampled", "routing_level": "sample", "weights": [1, 2]},
    "token": {"choice": "sampled", "fusion_method": "learnable"},
}


@pytest.mark.slow
@pytest.mark.parametrize("level", DRAWN)
def test_draws_go_on_bit_for_bit_and_are_the_same_in_any_passes(
    level, train, monkeypatch
):
    def settings(**steps):
        of_all = {"phase": {"all": {"fuse": DRAWN[level]}}}
        steps = {"steps": 3, "checkpoint_every": 2, **steps}
        return merge(ONE_PHASE, of_all) | {"train": steps}

    two = {"grad_accum": 2, "batch_size": 2}
    whole, save, kills = train(**settings(**two)), _Loop.save, []

    def killed(self, done):
        save(self, done)
        if done == 2 and not kills:
            kills.append(done)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "save", killed)
        train(**settings(**two), name=level, ends=1)
    again = train(**settings(**two), name=level)
    assert kills == [2]
    kept = students(again)
    for name, weight in students(whole).items():
        assert torch.equal(weight, kept[name]), name
    at_once = lines_of(train(**settings(batch_size=4)))
    for mine, theirs in zip(lines_of(whole), at_once, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert mine.get("asked") == theirs.get("asked")
    shares = [s for line in lines_of(whole, "routing") for s in line["leads"].values()]
    assert any(0 < share[FIRST] < 1 for share in shares)
    if level == "token":  # a router that has learned next to nothing
        assert lines_of(whole, "routing")[0]["entropy"] > 0.6


@pytest.mark.slow
def test_hard_texts_by_their_scores_go_to_the_large_teacher(train, monkeypatch):
    """Scored once, for the router and the curriculum together."""
    scored, given = [], {}
    choose, measure = TextChoice.__call__, phase.scores_by_text

    def noted(self, samples, numbers):
        chosen = choose(self, samples, numbers)
        for sample, row in zip(samples, chosen.tolist(), strict=True):
            given[sample.id] = row
        return chosen

    def measured(*position):
        scored.append(measure(*position))
        return scored[-1]

    monkeypatch.setattr(TextChoice, "__call__", noted)
    monkeypatch.setattr(phase, "scores_by_text", measured)
    bands = {"use": "difficulty", "difficulty": "student_bits", "bounds": [0.6]}
    fuse = {"fusion_method": bands | {"order": [FIRST, SECOND]}}
    fuse |= {"choice": "hard", "routing_level": "sample"}
    run = train(
        **merge(ONE_PHASE, {"phase": {"single": {"fuse": fuse}}}),
        data={"curriculum": {"use": "bands", "difficulty": "entropy"}},
        train={"steps": 4},
    )
    (scores,) = scored
    every = np.array(list(scores.values()))
    assert len(given) > 4
    for name, row in given.items():
        place = ((every < scores[name]).mean() + (every <= scores[name]).mean()) / 2
        assert row == ([True, False] if place < 0.6 else [False, True])
    kept = list(run.glob("phases/1-single.scores/step-*"))
    assert [folder.name for folder in kept] == ["step-00000000"]
    means = lines_of(run, "curriculum")[0]["means"]
    assert {"student_bits", "teacher_entropy", "length"} <= set(means)
