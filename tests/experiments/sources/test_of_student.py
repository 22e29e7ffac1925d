"""Runs whose teachers are the student itself: earlier, averaged, lagging, at first."""

from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from experiments.cli import main
from experiments.config.parsing import ConfigError, merge
from experiments.config.tree import load_config
from experiments.estimate.counted import memory_plan
from experiments.record.history import read_json
from experiments.run.driver import run_training
from experiments.sources.phases import Followers
from tests.experiments.small_runs import small_config

TAUGHT = {"loss": {"lambda_k": 1.0, "lambda_v": 1.0}, "output": {"kd": 1.0}}
GENERATIONS = {
    "phases": ["single", "dual"],
    "phase": {
        "single": {"teachers": ["tutor"]},
        "dual": {"teachers": {"names": ["me"], "min": 1}, **TAUGHT},
    },
}


def configured(folder: Path, zoo, changes):
    """A small config whose teachers are those of ``changes`` alone."""
    folder.mkdir(exist_ok=True)
    path = small_config(folder, zoo)
    data = yaml.safe_load(path.read_text())
    data["teachers"] = changes["teachers"]
    path.write_text(yaml.safe_dump(merge(data, changes), sort_keys=False))
    return load_config(path)


def weights(folder: Path):
    return load_file(folder / "model.safetensors")


def same(left: Path, right: Path) -> bool:
    mine, theirs = weights(left), weights(right)
    return mine.keys() == theirs.keys() and all(
        mine[key].equal(theirs[key]) for key in mine
    )


@pytest.fixture(scope="module")
def generations(tmp_path_factory, tiny_zoo):
    """A run whose second phase is taught by the student of its first."""
    folder = tmp_path_factory.mktemp("generations")
    teachers = {"tutor": str(tiny_zoo["qwen-code"]), "me": "phase:-1"}
    config = configured(folder, tiny_zoo, {"teachers": teachers, **GENERATIONS})
    return config, run_training(config)


@pytest.mark.slow
def test_an_earlier_phase_teaches_as_its_folder_by_hand_does(
    generations, tmp_path, tiny_zoo
):
    _, run = generations
    first = run / "phases" / "1-single" / "student"
    teachers = {"tutor": str(tiny_zoo["qwen-code"]), "me": str(first)}
    by_hand = configured(tmp_path, tiny_zoo, {"teachers": teachers, **GENERATIONS})
    other = run_training(by_hand)
    assert same(first, other / "phases" / "1-single" / "student")
    assert same(run / "student", other / "student")
    assert not same(first, run / "phases" / "2-dual" / "student")


@pytest.mark.slow
def test_the_record_of_a_phase_holds_the_digest_of_the_student_that_taught(
    generations,
):
    config, run = generations
    files = read_json(run / "phases" / "2-dual.settings.json")["files"]
    assert set(files["me"]) >= {"weights", "config.json"}
    assert files["me"]["weights"] != files["student"]["weights"]
    assert "teachers" in read_json(run / "summary.json")
    assert run_training(config) == run  # nothing differs: nothing is done again


def test_what_is_not_there_yet_is_known_before_work(tmp_path, tiny_zoo, capsys):
    teachers = {"tutor": str(tiny_zoo["qwen-code"]), "me": "phase:single", "ema": "ema"}
    changes = {
        "phases": ["single", "dual"],
        "phase": {"dual": {"teachers": {"min": 1, "families": "any"}}},
    }
    config = configured(tmp_path, tiny_zoo, {"teachers": teachers, **changes})
    plan = memory_plan(config, device="cpu")
    assert {"student", "tutor", "me"} <= {line.of for line in plan}
    assert main(["train", str(tmp_path / "config.yaml"), "--check"]) == 0
    shown = capsys.readouterr().out
    assert "phase single: tutor\n" in shown
    assert "phase dual: tutor, me\n" in shown
    assert "teacher 'me': the student that phase 'single' left, frozen\n" in shown
    assert "teacher 'ema' is the average of the student's weights" in shown
    assert "asked in the step that learns from it, before that step's update" in shown


def test_a_phase_that_names_a_later_one_s_student_is_refused(tmp_path, tiny_zoo):
    changes = {"teachers": {"me": "phase:-1"}, "phases": ["single"]}
    config = configured(tmp_path, tiny_zoo, changes)
    with pytest.raises(
        ConfigError, match=r"min.*0 trains it by cross-entropy alone: me"
    ):
        run_training(config)
    named = {**changes, "teachers": {"me": "phase:dual"}}
    named["phase"] = {"single": {"teachers": ["me"]}}
    config = configured(tmp_path, tiny_zoo, named)
    with pytest.raises(
        ConfigError, match=r"phase\.single\.teachers names 'me'.*'dual'"
    ):
        run_training(config)


def test_what_moves_does_not_go_with_parted_weights(tmp_path, tiny_zoo):
    changes = {"train": {"engine": "deepspeed", "zero_stage": 3}, "phases": ["single"]}
    config = configured(tmp_path, tiny_zoo, {"teachers": {"me": "ema"}, **changes})
    with pytest.raises(
        ConfigError, match=r"teachers\.me\.model is 'ema'.*zero_stage=2"
    ):
        run_training(config)


def test_a_setting_of_files_has_no_place_beside_the_student_s_own(tmp_path, tiny_zoo):
    teachers = {"me": {"model": "ema", "dtype": "bfloat16"}}
    changes = {"teachers": teachers, "phases": ["single"]}
    config = configured(tmp_path, tiny_zoo, changes)
    with pytest.raises(ConfigError, match=r"teachers\.me\.dtype is bfloat16, but ema"):
        run_training(config)


class Killed(RuntimeError):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("ema", {"engine": "torch"}),
        ("checkpoint:-2", {"engine": "torch"}),
        ("self", {"engine": "torch"}),
        ("ema", {"engine": "deepspeed", "zero_stage": 2}),
    ],
    ids=["ema", "checkpoint", "self", "zero 2"],
)
def test_one_that_moves_goes_on_bit_for_bit_after_a_kill(
    model, engine, tmp_path, tiny_zoo, monkeypatch
):
    changes = {
        "phases": ["single"],
        "phase": {"single": TAUGHT},
        "train": {"steps": 4, "checkpoint_every": 1, "learning_rate": 0.01, **engine},
    }
    entry = {"model": model, "options": {"decay": 0.5} if model == "ema" else {}}

    def run_in(name):
        return configured(
            tmp_path / name, tiny_zoo, {"teachers": {"me": entry}, **changes}
        )

    whole = run_training(run_in("whole"))
    move = Followers.after_step

    def killed(self, step):
        move(self, step)
        if step == 3:  # after the checkpoint of step 2
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Followers, "after_step", killed)
        run_training(run_in("killed"))
    resumed = run_training(run_in("killed"))
    assert same(whole / "student", resumed / "student")


@pytest.mark.slow
def test_the_start_teaches_as_the_student_s_own_files_do(tmp_path, tiny_zoo):
    taught = {"phases": ["single"], "phase": {"single": TAUGHT}}
    runs = []
    for model in ("student:start", str(tiny_zoo["student"])):
        folder = tmp_path / model[:7].strip("/").replace("/", "-")
        changes = {"teachers": {"me": model}, **taught}
        runs.append(run_training(configured(folder, tiny_zoo, changes)))
    assert same(*(run / "student" for run in runs))


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        {"engine": "torch", "gradient_checkpointing": True},
        {"engine": "deepspeed", "zero_stage": 2},
    ],
    ids=["torch", "zero 2"],
)
def test_itself_teaches_at_first_as_a_frozen_copy_and_then_as_it_has_become(
    engine, tmp_path, tiny_zoo
):
    """A layer learns from the last one; with a gradient through the target, or from a
    copy that fell behind, the weights would be others."""
    hidden = {"deep": {"use": "match", "site": "hidden", "distance": "mse"}}
    loss = {"lambda_k": 1.0, "lambda_v": 0, "terms": hidden}
    changes = {
        "phases": ["single"],
        "phase": {"single": {"loss": loss, "output": {"kd": 1.0}}},
        "align": {"layer_map": {"me": [1, 1]}},
    }

    def run_in(name, model, steps):
        train = {"learning_rate": 0.01, "steps": steps, **engine}
        config = {"teachers": {"me": model}, **changes, "train": train}
        return run_training(configured(tmp_path / name, tiny_zoo, config)) / "student"

    frozen = run_in("frozen", "student:start", 1)
    assert same(frozen, run_in("once", "self", 1))
    twice = run_in("twice", "self", 2)
    assert not same(frozen, twice)
    assert not same(run_in("still", "student:start", 2), twice)
