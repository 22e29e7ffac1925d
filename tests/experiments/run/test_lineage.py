import shutil

import pytest

from experiments.assemble.fingerprint import file_digests
from experiments.config.later import LATER
from experiments.config.parsing import ConfigError
from experiments.config.presets import builtin_presets
from experiments.config.tree import load_config, resolve_phase
from experiments.run.context import Stage
from experiments.run.lineage import (
    check_record,
    differing_fields,
    record_of,
    write_record,
)

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


@pytest.fixture
def kept(tmp_path):
    """Gives the record of a phase, and checks one of other files against it."""
    teachers = {name: {"model": f"./{name}"} for name in "ab"}
    tree = {"teachers": teachers, "phases": ["dual"]}
    config = load_config(tree, ["student.model=./s"])
    stage = Stage(resolve_phase(config, "dual", builtin_presets()), ("a",))
    folder = tmp_path / "1-dual"
    folder.mkdir()
    (folder / "complete.json").touch()

    def check(before, now):
        write_record(folder, record_of(config, [stage], {}, files=before))
        check_record(folder, record_of(config, [stage], {}, files=now))

    return check


FILES = {"student": {"weights": "1"}, "a": {"weights": "2", "config.json": "3"}}


@pytest.mark.parametrize(
    ("fact", "stored", "now"),
    [("tokenizer", "1f", "2e"), ("dtype", "float32", "bfloat16"), ("code", "3", "4")],
)
def test_another_teacher_is_refused_by_the_field_that_tells_it(kept, fact, stored, now):
    before = {**FILES, "a": {**FILES["a"], fact: stored}}
    kept(before, before)
    kept(FILES, before)  # an earlier version noted nothing of it
    other = {**FILES, "a": {**FILES["a"], fact: now}}
    with pytest.raises(ConfigError, match=rf"files\.a\.{fact}: stored '{stored}', con"):
        kept(before, other)


def test_another_commit_is_another_teacher_unless_the_weights_are_known(kept):
    def of(commit, **known):
        return {"student": {"weights": "1"}, "a": {"revision": commit, **known}}

    kept(of("c1", weights="2"), of("c2", weights="2"))
    with pytest.raises(ConfigError, match=r"files\.a\.revision: stored 'c1', config"):
        kept(of("c1"), of("c2"))


def test_a_model_that_was_replaced_under_its_name_is_not_gone_on_with(kept):
    kept(FILES, FILES)
    other = {**FILES, "a": {"weights": "9", "config.json": "3"}}
    told = r"files\.a\.weights: stored '2', config '9' \(\./a was replaced under"
    with pytest.raises(ConfigError, match=told):
        kept(FILES, other)
    with pytest.raises(ConfigError, match=r"\(\./s was replaced"):
        kept(FILES, {**FILES, "student": {"weights": "9"}})


def test_another_model_in_a_setting_was_not_replaced_under_its_name(tmp_path):
    folder = tmp_path / "1-dual"
    folder.mkdir()
    (folder / "complete.json").touch()

    def of(model, files):
        teachers = {"a": {"model": model}, "b": {"model": "./b"}}
        config = load_config({"teachers": teachers, "phases": ["dual"]})
        stage = Stage(resolve_phase(config, "dual", builtin_presets()), ("a", "b"))
        return record_of(config, [stage], {}, files=files)

    write_record(folder, of("./a", {"a": {"weights": "2"}, "b": {"weights": "3"}}))
    with pytest.raises(ConfigError, match=r"a\.model: stored './a', con") as refused:
        check_record(folder, of("./c", {"a": {"weights": "9"}, "b": {"weights": "3"}}))
    assert "replaced" not in str(refused.value)
    assert "files.a" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"a\.model: stored './a', con") as refused:
        check_record(folder, of("./c", {"a": {"weights": "9"}, "b": {"weights": "4"}}))
    assert "(./b was replaced under its name)" in str(refused.value)


def test_files_that_nobody_could_digest_or_noted_are_not_compared(kept):
    kept(FILES, {**FILES, "a": {}})  # no longer on this machine
    kept({**FILES, "a": {}}, FILES)
    kept(None, FILES)  # of an earlier version
    kept(FILES, {**FILES, "b": {"weights": "9"}})  # of no phase


def test_what_a_model_is_read_from_is_digested_file_by_file(tiny_llama, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    before = file_digests(str(folder))
    assert {"weights", "config.json", "tokenizer.json"} <= before.keys()
    assert "weights" not in file_digests(str(folder), weights=False)
    (folder / "README.md").write_text("mine")
    assert file_digests(str(folder)) == before
    for name, key in (("model.safetensors", "weights"), ("config.json", "config.json")):
        file = folder / name
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data)
        now = file_digests(str(folder))
        assert {name for name in now if now[name] != before[name]} == {key}
        data[-3] ^= 1
        file.write_bytes(data)
    assert file_digests(str(tmp_path / "nowhere")) == {}
