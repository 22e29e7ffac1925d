"""Phases with names of one's own that begin anew: generations of one student."""

import pytest
import torch
from safetensors.torch import load_file

from align.errors import InputError
from experiments.assemble.models import Models
from experiments.config.parsing import ConfigError, merge
from experiments.config.presets import load_registry
from experiments.config.tree import load_config, resolve_phases
from experiments.record.history import read_json
from experiments.run.driver import run_training
from experiments.run.plan import plan_run
from experiments.run.preflight import describe_plan
from tests.experiments.small_runs import small_config

BORN_AGAIN = {
    "student": {"init": "fresh"},
    "phases": ["first", "second"],
    "phase": {
        "all": {"like": "single", "teachers": {"min": 0}, "output": {"kd": 1.0}},
        "second": {"begins": "anew"},
    },
}

SILENT = {"lambda_k": 0, "lambda_v": 0, "beta_cos": 0, "gamma_kl": 0}


def configured(folder, zoo, changes=None):
    """A small config of generations; the only teacher is the one before."""
    path = small_config(folder, zoo, merge(BORN_AGAIN, changes or {}))
    text = path.read_text()
    start, end = text.index("teachers:"), text.index("data:")
    path.write_text(f"{text[:start]}teachers: {{me: 'phase:-1'}}\n{text[end:]}")
    return load_config(path)


def test_a_phase_with_a_name_of_its_own_takes_the_preset_that_it_is_like(presets):
    changed = {"all": {"like": "dual"}, "mine": {"like": "single"}}
    config = load_config(
        {"teachers": ["zoo:a", "zoo:b"], "phases": ["mine", "other"], "phase": changed}
    )
    mine, other = resolve_phases(config, presets)
    assert (mine.name, mine.preset, mine.rule.max) == ("mine", "single", 1)
    assert (other.name, other.preset, other.rule.min) == ("other", "dual", 2)


def test_a_preset_that_is_not_there_is_refused(presets):
    changed = {"mine": {"like": "singel"}}
    config = load_config({"teachers": ["zoo:a"], "phases": ["mine"], "phase": changed})
    with pytest.raises(ConfigError, match=r"phase\.mine\.like singel.*'single'"):
        resolve_phases(config, presets)


def test_weights_of_a_checkpoint_are_not_drawn_anew(tmp_path, tiny_zoo):
    config = configured(tmp_path, tiny_zoo, {"student": {"init": "checkpoint"}})
    with pytest.raises(ConfigError, match=r"phase\.second\.begins is anew.*init=fresh"):
        plan_run(config, load_registry(config))


def embedding(folder):
    weights = load_file(folder / "student" / "model.safetensors")
    return next(x for name, x in weights.items() if "embed" in name)


@pytest.mark.slow
def test_a_generation_begins_anew_and_is_taught_by_the_one_before(tmp_path, tiny_zoo):
    run = run_training(configured(tmp_path, tiny_zoo))
    first, second = (embedding(run / "phases" / n) for n in ("1-first", "2-second"))
    # two steps move a weight by less than two draws are apart
    assert (first - second).std() > 0.5 * (first.std() + second.std()) / 2
    line = '"phase": "second", "kind": "train", "step": 2'
    metrics = (run / "metrics.jsonl").read_text().splitlines()
    (taught,) = [row for row in metrics if line in row]
    assert '"kd": ' in taught  # the first phase has no teacher, and no such term
    (alone,) = [row for row in metrics if line.replace("second", "first") in row]
    assert '"kd": ' not in alone


def test_a_check_says_which_phase_has_no_teacher_yet(tmp_path, tiny_zoo):
    config = configured(tmp_path, tiny_zoo)
    sentences = describe_plan(plan_run(config, load_registry(config)))
    assert "phase first: cross-entropy alone" in sentences
    assert "phase second: me" in sentences


@pytest.mark.slow
def test_all_that_ran_before_teach_together_and_their_digests_are_kept(
    tmp_path, tiny_zoo
):
    changes = {"phases": ["first", "second", "third"]}
    changes["phase"] = {"all": {"loss": SILENT}, "third": {"begins": "anew"}}
    configured(tmp_path, tiny_zoo, changes)
    path = tmp_path / "config.yaml"
    options = "{model: 'phase:*', options: {weights: performance}}"
    path.write_text(path.read_text().replace("'phase:-1'", options))
    run = run_training(load_config(path))
    files = read_json(run / "phases" / "3-third.settings.json")["files"]["me"]
    assert {"1-first/weights", "2-second/weights"} <= set(files)
    only = read_json(run / "phases" / "2-second.settings.json")["files"]["me"]
    assert "weights" in only


def test_a_residual_of_another_vocabulary_is_refused_before_work(tmp_path, tiny_zoo):
    configured(tmp_path, tiny_zoo, {"output": {"kd": 0}})
    path = tmp_path / "config.yaml"
    model = tiny_zoo["gpt2-prose"]
    options = f"{{model: 'phase:-1', options: {{residual_of: {model}}}}}"
    path.write_text(path.read_text().replace("'phase:-1'", options))
    config = load_config(path)
    with pytest.raises(InputError, match=r"teachers\.me: .*vocabularies differ"):
        Models(config, torch.device("cpu"))


@pytest.mark.slow
def test_a_stage_learns_what_the_one_before_lacks(tmp_path, tiny_zoo):
    terms = {"rest": {"use": "match", "site": "logits", "distance": "mse"}}
    learned = {"output": {"kd": 0}, "loss": {**SILENT, "terms": terms}}
    changes = {"phase": {"all": learned}}
    configured(tmp_path, tiny_zoo, changes)
    path = tmp_path / "config.yaml"
    options = f"{{model: 'phase:-1', options: {{residual_of: {tiny_zoo['student']}}}}}"
    path.write_text(path.read_text().replace("'phase:-1'", options))
    run = run_training(load_config(path))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    taught = [row for row in lines if '"kind": "train"' in row and '"rest": ' in row]
    assert len(taught) >= 2 and {'"first"' in row for row in taught} == {True, False}
