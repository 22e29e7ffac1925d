"""The bed of pretrained teachers, whose texts are few and the same for all."""

import json
from pathlib import Path

import pytest
import yaml

from align.errors import InputError
from experiments.bench.quality.arm import CE_ONLY
from experiments.bench.quality.deciding import ordering_arms, selecting_arms
from experiments.bench.quality.real.arms import real_arms
from experiments.bench.quality.real.bed import DOMAINS, SMOLLM2, prepare_real
from experiments.bench.quality.train import Setup, config_of
from experiments.config.presets import load_registry, presets_of
from experiments.config.tree import resolve_phases


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return prepare_real(tmp_path_factory.mktemp("real"), 12)


def test_the_bed_has_so_many_texts_evenly_and_is_found_again(base):
    config = yaml.safe_load(base.read_text())
    for domain in DOMAINS:
        given = Path(base.parent, "texts", "student", f"{domain}.jsonl")
        assert f"{domain}={given}" in config["data"]["train"]
        assert len(given.read_text().splitlines()) == 6
    held_out = Path(base.parent, "texts", "eval", "code.jsonl").read_text()
    texts = {json.loads(line)["text"] for line in held_out.splitlines()}
    assert len(texts) == 64
    assert prepare_real(base.parent.parent, 12) == base
    assert prepare_real(base.parent.parent, 14) != base


def test_more_texts_than_there_are_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"of which there are .* --text-count"):
        prepare_real(tmp_path, 100_000)


def test_arms_resolve_and_read_what_teachers_say_from_one_store(base, tmp_path):
    groups = real_arms()
    setup = Setup(base, tmp_path / "60", 60, stores=tmp_path / "teachers")
    for arm in (*groups["real"], *groups["tuned"]):
        assert not setup.unknown(arm)
        config = config_of(setup, arm, 0)
        (phase,) = resolve_phases(config, presets_of(load_registry(config)))
        assert phase.teachers == list(arm.teachers) == list(config.teachers)
        if not arm.teachers:
            continue
        assert arm.stored and config.store.read and config.store.top_k == 64
        assert Path(config.store.dir) == tmp_path / "teachers"
        if "out" in arm.name:
            assert phase.loss.lambda_k == 0 < phase.output.projected_kl
        expected = "prequential" if arm.name.endswith("prequential") else "fixed"
        assert phase.fuse.fusion_method == expected
        assert arm.routed == (expected == "prequential")
    assert groups["real"][0].name == CE_ONLY
    decays = [
        config_of(setup, arm, 0).train.weight_decay for arm in (*groups["tuned"],)
    ]
    assert len({*decays, config_of(setup, groups["real"][0], 0).train.weight_decay}) > 3


def test_selectors_and_curricula_are_those_of_the_specialists(base, tmp_path):
    groups = real_arms()
    _, plain, *_ = groups["real"]
    setup = Setup(base, tmp_path, 60)
    for group, like in (("selected", selecting_arms), ("ordered", ordering_arms)):
        assert [a.name for a in groups[group]] == [a.name for a in like(DOMAINS, ())]
        for arm in groups[group]:
            assert arm.settings[:-1] == plain.settings
            config = config_of(setup, arm, 0)
            assert list(config.teachers) == [SMOLLM2]
            assert config.output.projected_kl == 1
