import pytest

from experiments.config.later import LATER
from experiments.config.presets import builtin_presets
from experiments.config.tree import load_config, resolve_phase
from experiments.run.context import Stage
from experiments.run.lineage import differing_fields, record_of

FIRST = {
    "student": "model init dtype",
    "teacher": "model weight dtype long_texts",
    "loss": "lambda_k lambda_v beta_cos gamma_kl delta_ce relation_k relation_v extra "
    "eta_outcome outcome_every outcome_layers router_signal attention_rows skip_sinks",
    "output": "kd hybrid_ot sequence_ot likelihood teachers divergence mix temperature "
    "temperature_rule temperature_end temperature_steps top_k threshold hard_labels "
    "label_smoothing combine weighting ot_alpha ot_top_k ot_adaptive sequence_cost "
    "likelihood_form likelihood_temperature block",
}
"""Settings that records held before any of ``LATER`` was there."""


def record(*settings):
    """Of one phase with one teacher and outputs."""
    tree = {"teachers": {"a": {"model": "a"}, "b": {"model": "b"}}, "phases": ["dual"]}
    config = load_config(tree, ["output.kd=1", *settings])
    phase = resolve_phase(config, "dual", builtin_presets())
    found = record_of(config, [Stage(phase, ("a",))], {})
    (sections,) = found["phases"].values()
    return {
        "student": found["student"],
        "teacher": sections["teachers"]["a"],
        "train": sections["train"],
        "loss": sections["loss"],
        "output": sections["output"],
    }


def test_a_record_holds_what_it_always_held_so_that_earlier_runs_go_on():
    found = record()
    for section, names in FIRST.items():
        assert found[section].keys() == set(names.split()), section
    assert not found["train"].keys() & LATER.keys()


@pytest.mark.parametrize(
    ("section", "setting", "value"),
    [
        ("loss", "fade_steps", 10),
        ("loss", "fade_to", 0.5),
        ("loss", "temperatures", [2.0]),
        ("output", "projected_kl", 0.5),
        ("output", "projected_chains", True),
        ("output", "likelihood_ends", "blanks"),
        ("train", "optimizer", "adamw_8bit"),
        ("train", "matrix_learning_rate", 0.03),
        ("student", "quantise", "int8"),
        ("teacher", "quantise", "int4"),
    ],
)
def test_a_later_setting_counts_once_it_does_something(section, setting, value):
    place = {"teacher": "teachers.a"}.get(section, section)
    more = ["student.lora.rank=4"] if section == "student" else []
    more += ["train.zero_stage=0"] if setting == "optimizer" else []
    found = record(*more, f"{place}.{setting}={value}")
    assert found[section][setting] == value


def test_what_differs_is_told_in_words_that_a_config_has():
    before = {"loss": {"lambda_k": 1.0}, "texts": {"train": "a1" * 32}, "steps": None}
    now = {
        "loss": {"lambda_k": 1.0, "fade_steps": 10},
        "texts": {"train": "b2" * 32},
        "steps": 4,
        "output": {"kd": 1.0},
    }
    assert differing_fields(before, now) == [
        "loss.fade_steps: stored 0, config 10",
        "output: stored null, config 1 settings",
        "steps: stored null, config 4",
        "texts.train: stored a1a1a1a1…, config b2b2b2b2…",
    ]
