import json
from pathlib import Path

import pytest
import yaml

from align.errors import InputError
from experiments.bench.quality import bed
from experiments.bench.quality.arm import CE_ONLY
from experiments.bench.quality.arms import chosen
from experiments.bench.quality.bed import config_for
from experiments.bench.quality.deciding import (
    foreseen,
    ordering_arms,
    selecting_arms,
)
from experiments.bench.quality.disjoint import bed as disjoint
from experiments.bench.quality.disjoint.arms import SHARES, disjoint_arms, tuned_arms
from experiments.bench.quality.train import Setup, config_of
from experiments.config.presets import load_registry, presets_of
from experiments.config.tree import resolve_phases

DOMAINS = ("sums", "verse")


def _texts(given):
    return {
        name: {
            split: [f"{split} of {name} {n}, " + "and so on " * 20 for n in range(9)]
            for split in ("eval", "student", "teacher")
        }
        for name in (*DOMAINS, *given)
    }


def test_every_arm_resolves_and_each_text_has_its_teachers_label(tmp_path):
    base = tmp_path / "config.yaml"
    config = config_for(tmp_path, DOMAINS, DOMAINS, "quality_disjoint")
    base.write_text(yaml.safe_dump(config))
    setup = Setup(base, tmp_path, 8)
    arms = disjoint_arms(DOMAINS)
    for arm in arms:
        assert not setup.unknown(arm) and not arm.stored
        config = config_of(setup, arm, 0)
        (phase,) = resolve_phases(config, presets_of(load_registry(config)))
        assert phase.teachers == list(arm.teachers)
        if arm.teachers:
            assert phase.output.kd == 1
            assert (
                phase.loss.lambda_k == phase.loss.lambda_v == phase.loss.beta_cos == 0
            )
        if arm.name.startswith("label"):
            assert phase.fuse.router_options == {"domains": {d: d for d in DOMAINS}}
    names = [arm.name for arm in chosen(["label"], {"all": arms})]
    assert names == [CE_ONLY, "label"]


def test_tuned_arms_differ_from_theirs_in_the_weight_of_outputs_alone(tmp_path):
    base = tmp_path / "config.yaml"
    base.write_text(yaml.safe_dump(config_for(tmp_path, DOMAINS, DOMAINS, "disjoint")))
    setup = Setup(base, tmp_path, 8)
    plain = {arm.name: arm for arm in disjoint_arms(DOMAINS)}
    arms = list(tuned_arms(DOMAINS))
    assert len(arms) == len(SHARES) * (2 + len(DOMAINS))
    for arm in arms:
        of, _, share = arm.name.rpartition("-")
        assert arm.settings[:-1] == plain[of].settings
        assert arm.teachers == plain[of].teachers and not setup.unknown(arm)
        config = config_of(setup, arm, 0)
        (phase,) = resolve_phases(config, presets_of(load_registry(config)))
        assert phase.output.kd == float(share)


@pytest.mark.parametrize(
    ("arms_of", "use"),
    [(selecting_arms, "confident_teacher"), (ordering_arms, "domains")],
)
def test_deciding_arms_differ_from_prequential_weights_in_one_setting(
    arms_of, use, tmp_path
):
    base = tmp_path / "config.yaml"
    base.write_text(yaml.safe_dump(config_for(tmp_path, DOMAINS, DOMAINS, "disjoint")))
    setup = Setup(base, tmp_path, 8)
    (plain,) = (arm for arm in disjoint_arms(DOMAINS) if arm.name == "prequential")
    for arm in arms_of(DOMAINS, foreseen(DOMAINS)):
        assert arm.settings[:-1] == plain.settings and arm.teachers == plain.teachers
        config = config_of(setup, arm, 0)
        (phase,) = resolve_phases(config, presets_of(load_registry(config)))
        select, curriculum = phase.loss.select, config.data.curriculum
        assert bool(select) != (curriculum != "none")
    (last,) = select.values() if select else [curriculum]
    assert last["use"] == use


def test_a_bed_that_was_made_is_found_again(tmp_path, monkeypatch):
    """Whatever code makes it: teachers took hours, and lie under this name."""
    monkeypatch.setattr(disjoint, "texts_of", _texts)
    monkeypatch.setattr(bed, "_make_student", lambda *_: None)
    monkeypatch.setattr(disjoint, "_make_teachers", lambda *_: None)
    base = disjoint.prepare(tmp_path, {})
    assert base.parent.name == "41d09282a266"
    again = disjoint.prepare(tmp_path, {}, ["verse"], teacher_steps=7)
    assert again.parent.name == "46bad5b62737"


@pytest.mark.slow
def test_a_bed_is_made_once_with_one_tokenizer_and_a_teacher_a_domain(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(disjoint, "texts_of", _texts)
    base = disjoint.prepare(tmp_path / "beds", {}, teacher_steps=1)
    config = yaml.safe_load(base.read_text())
    assert list(config["teachers"]) == list(DOMAINS)
    models = [config["student"]["model"]]
    models += [teacher["model"] for teacher in config["teachers"].values()]
    tokenizers = {Path(model, "tokenizer.json").read_text() for model in models}
    assert len(tokenizers) == 1
    costs = json.loads((base.parent / "teachers.json").read_text())["cpu_s"]
    assert list(costs) == list(DOMAINS)
    before = base.stat().st_mtime_ns
    assert disjoint.prepare(tmp_path / "beds", {}, teacher_steps=1) == base
    assert base.stat().st_mtime_ns == before
    other = disjoint.prepare(tmp_path / "beds", {}, ["verse"], teacher_steps=1)
    assert other != base
    with pytest.raises(InputError, match="no text; there are sums, verse"):
        disjoint.prepare(tmp_path / "beds", {}, ["prose"])
