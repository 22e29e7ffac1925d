"""Phases with names of one's own that begin anew: generations of one student."""

import pytest
from safetensors.torch import load_file

from experiments.config.parsing import ConfigError
from experiments.config.presets import load_registry
from experiments.config.tree import load_config, resolve_phases
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


def configured(folder, zoo, changes=None):
    """A small config of generations; the only teacher is the one before."""
    path = small_config(folder, zoo, {**BORN_AGAIN, **(changes or {})})
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
