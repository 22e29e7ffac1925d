"""Runs whose texts come in an order of their own: arms alike, resumed bit for bit."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest

from align.errors import InputError
from experiments.config.parsing import ConfigError
from experiments.config.presets import load_registry
from experiments.run.driver import run_training
from experiments.run.measures.scores import check_same_scores
from experiments.run.plan import settle
from experiments.scoring.kept import FILE
from plugins.errors import PluginError
from student.checkpoint import CheckpointError, read_complete
from student.loop.batches import BatchMaker
from tests.experiments.small_runs import write_text
from tests.experiments.sources.test_of_student import Killed, configured, same

CURRICULUM = {"use": "competence", "difficulty": "gap", "start": 0.2, "rescore": 2}


def run_in(folder, zoo, curriculum=CURRICULUM, **changes):
    folder.mkdir(exist_ok=True)
    texts = [str(write_text(folder / f"{n}.txt", 12)) for n in ("one", "two")]
    return configured(
        folder,
        zoo,
        {
            "teachers": {"tutor": str(zoo["qwen-code"])},
            "phases": ["single"],
            "baselines": {"ce_only": True},
            "train": {"steps": 5, "checkpoint_every": 1, "learning_rate": 0.01},
            "data": {
                "curriculum": curriculum,
                "train": [f"a={texts[0]}", f"b={texts[1]}"],
            },
            **changes,
        },
    )


@pytest.fixture(scope="module")
def whole(tiny_zoo, tmp_path_factory):
    """One run with CE only beside it, and the texts that each of both read."""
    read = []
    order = BatchMaker.order

    def noted(self, number):
        made = order(self, number)
        read.append([sample.id for sample in made.samples])
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchMaker, "order", noted)
        run = run_training(run_in(tmp_path_factory.mktemp("whole"), tiny_zoo))
    return run, read


def lines(run, kind):
    every = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in every if line["kind"] == kind]


@pytest.mark.slow
def test_arms_read_the_same_texts_scored_once_for_all(whole):
    run, read = whole
    assert read[:5] == read[5:] and len(read) == 10
    kept = sorted(path.name for path in (run / "phases/1-single.scores").iterdir())
    assert kept == ["step-00000000", "step-00000002", "step-00000004"]
    told = lines(run, "curriculum")
    steps = [(line["arm"], line["step"]) for line in told]
    assert steps == [(arm, n) for arm in ("main", "ce_only") for n in (1, 3, 5)]
    first, second = told[0]["means"], told[1]["means"]
    assert set(first) == {"length", "student_bits", "teacher_bits"}
    assert first["teacher_bits"] == second["teacher_bits"]  # it stands still
    assert first["student_bits"] != second["student_bits"]
    main, alone = lines(run, "order")
    assert {k: v for k, v in main.items() if k not in ("time", "arm")} == {
        k: v for k, v in alone.items() if k not in ("time", "arm")
    }
    texts = sum(n["texts"] for n in main["never"].values())
    different = {name for step in read[:5] for name in step}
    # what was never read is counted by domain, and some of it named
    assert texts + len(different) == round(20 / main["reads"]["mean"])
    assert not different & {name for n in main["never"].values() for name in n["first"]}
    assert len(main["bands"]) == 5 and main["bands"][0][4] == 0  # no hard ones first
    assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in main["bands"])


@pytest.mark.slow
def test_arms_say_by_which_scores_they_read_and_others_are_refused(
    whole, tmp_path, tiny_zoo
):
    run, _ = whole
    scores = run / "phases/1-single.scores"
    digests = {
        kept.name: hashlib.sha256((kept / FILE).read_bytes()).hexdigest()
        for kept in scores.iterdir()
    }
    for folder in ("phases", "baselines/ce_only"):
        state = read_complete(run / folder / "1-single")
        assert state["scores"] == digests
    (phase,) = json.loads((run / "summary.json").read_text())["phases"]
    assert phase["scores"] == digests
    state["scores"]["step-00000002"] = "another"
    stage = SimpleNamespace(phase=SimpleNamespace(name="single"))
    with pytest.raises(CheckpointError, match="arm 'ce_only' read its texts by other"):
        check_same_scores(run, "ce_only", stage, 0, state)
    state["scores"] = {**digests, "step-00000006": "no longer there"}
    check_same_scores(run, "ce_only", stage, 0, state)
    check_same_scores(run, "ce_only", stage, 0, {})  # of an earlier version


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit_and_knows_other_settings(
    whole, tmp_path, tiny_zoo, monkeypatch
):
    run, read = whole
    config = run_in(tmp_path, tiny_zoo, baselines={"ce_only": False})
    order, asked = BatchMaker.order, []

    def killed(self, number):
        if number == 3:
            raise Killed
        return order(self, number)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(BatchMaker, "order", killed)
        run_training(config)

    def noted(self, number):
        made = order(self, number)
        asked.append([sample.id for sample in made.samples])
        return made

    changed = run_in(
        tmp_path,
        tiny_zoo,
        {**CURRICULUM, "start": 0.5},
        baselines={"ce_only": False},
    )
    with pytest.raises(
        ConfigError, match=r"curriculum.start: stored 0\.2, config 0\.5"
    ):
        run_training(changed)
    scores = tmp_path / "run/phases/1-single.scores"
    shutil.move(scores / "step-00000002", tmp_path / "aside")
    with pytest.raises(CheckpointError, match="there are no scores"):
        run_training(config)
    shutil.move(tmp_path / "aside", scores / "step-00000002")
    monkeypatch.setattr(BatchMaker, "order", noted)
    resumed = run_training(config)
    assert asked == read[5 - len(asked) : 5] and len(asked) < 5
    assert same(run / "student", resumed / "student")


@pytest.mark.parametrize(
    ("curriculum", "error", "said"),
    [
        ("competense", PluginError, "did you mean 'competence'"),
        ({"use": "bands", "bands": 0}, ConfigError, "bands"),
        ({"use": "competence", "start": 5}, ConfigError, "start"),
        ({"use": "domains", "by": "progress"}, ConfigError, "set rescore: true"),
        ({"use": "bands", "colour": 1}, ConfigError, "colour"),
        ({"use": "bands", "difficulty": "lenght"}, InputError, "mean 'length'"),
        ({"use": "none", "rescore": 3}, InputError, "which nobody reads"),
        ({"use": "bands", "rescore": -1}, InputError, "rescore is -1"),
        ({"use": "bands", "rescore": True}, InputError, "checkpoint_every is 0"),
        ({"difficulty": "gap"}, InputError, "give a registered name"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(
    curriculum, error, said, tmp_path, tiny_zoo
):
    with pytest.raises(error, match=said):
        config = run_in(tmp_path, tiny_zoo, curriculum, train={"checkpoint_every": 0})
        settle(config, load_registry(config))
