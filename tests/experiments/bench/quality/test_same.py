"""The bed in which teachers read what the student reads."""

from pathlib import Path

import pytest
import yaml

from experiments.bench.quality import bed as beds
from experiments.bench.quality.arm import CE_ONLY
from experiments.bench.quality.arms import chosen
from experiments.bench.quality.jobs import _training
from experiments.bench.quality.same import bed as same_bed
from experiments.bench.quality.same.arms import same_arms
from experiments.bench.quality.train import Setup, config_of
from experiments.config.presets import load_registry, presets_of
from experiments.config.tree import resolve_phases


@pytest.fixture
def bed(tmp_path):
    base = tmp_path / "config.yaml"
    base.write_text(yaml.safe_dump(same_bed._config(tmp_path, same_bed.DOMAINS)))
    return Setup(base, tmp_path / "runs", 8)


def test_arms_resolve_and_a_pupils_teachers_are_the_students_of_its_seed(bed):
    arms = {arm.name: arm for arm in same_arms(bed.base.parent)}
    for name in (CE_ONLY, "teacher-2", "from-1", "from-4-alone"):
        arm = arms[name]
        assert not bed.unknown(arm) and not arm.stored
        config = config_of(bed, arm, 5)
        (phase,) = resolve_phases(config, presets_of(load_registry(config)))
        assert phase.teachers == list(arm.teachers)
        assert config.run.seed == 5 + arm.apart
        for name, teacher in config.teachers.items():
            assert teacher.model == str(bed.folder / name / "seed-5" / "student")
        if arm.name in same_bed.SIZES:
            assert config.student.model.endswith(f"teachers/{arm.name}")


def test_no_two_teachers_begin_or_read_alike(bed):
    arms = {arm.name: arm for arm in same_arms(bed.base.parent)}
    apart = {arms[name].apart for name in same_bed.SIZES}
    assert len(apart) == len(same_bed.SIZES) and 0 not in apart


def test_who_is_asked_for_brings_its_teachers_which_train_first(bed):
    groups = {"all": same_arms(bed.base.parent)}
    arms = chosen(["from-2"], groups)
    assert [a.name for a in arms] == [CE_ONLY, "teacher-1", "teacher-2", "from-2"]
    first, then = _training(bed, arms, [0, 1])
    assert [task.name for task in first] == [
        f"teacher-{n}, seed {seed}" for seed in (0, 1) for n in (1, 2)
    ]
    assert [task.name for task in then] == [
        f"{name}, seed {seed}" for seed in (0, 1) for name in (CE_ONLY, "from-2")
    ]


def test_a_text_is_cut_where_the_reading_ends():
    assert same_bed._up_to(["abc", "defg", "h"], 5) == ["abc", "de"]
    assert same_bed._up_to(["abc"], 0) == []


def test_a_bed_that_was_made_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(beds, "_make_student", lambda *_: None)
    monkeypatch.setattr(same_bed, "_make_teachers", lambda *_: None)
    texts = {"sums": ["a 1, " * 30] * 40, "verse": ["b 2, " * 30] * 40}
    base = same_bed.prepare_same(tmp_path, texts)
    assert base.parent.name == "3018d55cbc3f"


@pytest.mark.slow
def test_the_bed_is_made_once_with_one_tokenizer_and_larger_teachers(tmp_path):
    texts = {
        name: [f"{name} {n}, " + "and so on " * 20 for n in range(40)]
        for name in ("sums", "verse")
    }
    base = same_bed.prepare_same(tmp_path, texts)
    config = yaml.safe_load(base.read_text())
    models = [config["student"]["model"]]
    models += [teacher["model"] for teacher in config["teachers"].values()]
    sizes = [Path(model, "model.safetensors").stat().st_size for model in models]
    assert min(sizes[1:]) > sizes[0]
    tokenizers = {Path(model, "tokenizer.json").read_text() for model in models}
    assert len(tokenizers) == 1
    before = base.stat().st_mtime_ns
    assert same_bed.prepare_same(tmp_path, texts) == base
    assert base.stat().st_mtime_ns == before
