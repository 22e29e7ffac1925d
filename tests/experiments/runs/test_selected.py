"""Runs whose selectors keep everything, some of it, and nothing."""

import json

import pytest
from safetensors.torch import load_file

from align.errors import InputError
from experiments.run.driver import run_training
from student.loop.trainer import _Loop
from tests.experiments.sources.test_of_student import configured

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SOME = {
    "sure": {
        "use": "uncertain",
        "percentile": {"from": 20, "to": 60},
        "apart": "both",
        "keep": "below",
    },
    "rho": {"use": "excess_loss", "share": 0.5, "on": ["outputs", "next_token"]},
    "unsure_student": {"alpha": 2.0},
}
EVERYTHING = {
    "uncertain": {"threshold": 0.0, "on": ["kv", "outputs", "next_token"]},
    "excess_loss": {"share": 1.0, "on": ["kv", "outputs", "next_token"]},
    "confident_teacher": {"strength": 0.0},
}


class Killed(RuntimeError):
    """As a machine would."""


def settings(zoo, select, **train):
    """Two passes a step; the teachers' outputs are compared as well."""
    return {
        "teachers": {
            "twin": {"model": str(zoo["student"])},
            "gpt2": {"model": str(zoo["gpt2-prose"])},
        },
        "loss": {"select": select, "outcome_every": 2},
        "output": {"kd": 0.5, "likelihood": 0.2, "teachers": {"kd": ["twin"]}},
        "train": {
            "steps": 3,
            "grad_accum": 2,
            "batch_size": 2,
            "checkpoint_every": 2,
            **train,
        },
    }


def lines_of(run, kind):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def student_of(run):
    return load_file(run / "student" / "model.safetensors")


def same(left, right):
    mine, theirs = student_of(left), student_of(right)
    return mine.keys() == theirs.keys() and all(mine[k].equal(theirs[k]) for k in mine)


def test_everything_is_bitwise_no_selection(tmp_path, tiny_zoo):
    for passes in ({"grad_accum": 2, "batch_size": 2}, {"grad_accum": 1}):
        name = f"of-{passes['grad_accum']}"
        runs = [
            run_training(
                configured(
                    tmp_path / f"{name}-{len(select)}",
                    tiny_zoo,
                    settings(tiny_zoo, select, **passes),
                )
            )
            for select in ({}, EVERYTHING)
        ]
        assert same(*runs)
        plain, every = ([x["terms"] for x in lines_of(run, "train")] for run in runs)
        assert plain == every
        (*_, line) = lines_of(runs[1], "selection")
        assert all(each["kept"] == 1 for each in line["selectors"].values())


def test_a_selection_goes_on_bit_for_bit_and_says_what_it_keeps(
    tmp_path, tiny_zoo, monkeypatch
):
    def run_in(name):
        return configured(tmp_path / name, tiny_zoo, settings(tiny_zoo, SOME))

    whole = run_training(run_in("whole"))
    save, kills = _Loop.save, []

    def killed(self, done):
        save(self, done)
        if done == 2 and not kills:
            kills.append(done)
            raise Killed

    monkeypatch.setattr(_Loop, "save", killed)
    with pytest.raises(Killed):
        run_training(run_in("killed"))
    resumed = run_training(run_in("killed"))
    assert same(whole, resumed)
    first, *_, last = lines_of(whole, "selection")
    assert set(last["selectors"]) == set(SOME)
    assert first["selectors"]["sure"]["kept"] == 1  # nothing is known yet
    assert 0 < last["selectors"]["rho"]["kept"] < 1
    assert last["selectors"]["unsure_student"]["domains"]["text"] > 1
    example = last["example"]
    assert len(example["pieces"]) == len(example["weights"]["rho"])
    moving = lines_of(whole, "train")[-1]["schedules"]
    assert moving["loss.select.sure.percentile"] > 20
    assert any(place.startswith("loss.select.sure.line[") for place in moving)


def test_a_threshold_that_keeps_nothing_is_named_with_the_share(tmp_path, tiny_zoo):
    select = {"uncertain": {"threshold": 1000.0}}
    config = configured(
        tmp_path / "nothing", tiny_zoo, settings(tiny_zoo, select, steps=12)
    )
    with pytest.raises(InputError, match="uncertain a share of 0 of") as caught:
        run_training(config)
    assert "{'threshold': 1000.0}" in str(caught.value)
