"""Text that is read beside the student's, and arms that read it."""

import json

import pytest

from align.text.documents import TextSample
from experiments.bench.quality.arm import CE_ONLY, Arm
from experiments.bench.quality.arms import ARMS, GROUPS
from experiments.bench.quality.curves import curves_of
from experiments.bench.quality.matching import texts as of
from experiments.bench.quality.table import read_outcome
from experiments.bench.quality.train import Setup, config_of
from experiments.config.packaged import config_path
from experiments.config.presets import load_registry, presets_of
from experiments.config.tree import resolve_phases
from experiments.record.history import write_json


@pytest.fixture
def bed(tmp_path):
    return Setup(
        config_path("quality_zoo"), tmp_path / "8", 8, stores=tmp_path / "teachers"
    )


@pytest.mark.parametrize("name", ["ce-unlabelled", "out-given", "match-both"])
def test_an_arm_reads_more_text_and_is_measured_on_the_zoo_s(bed, name):
    arm = ARMS[name]
    assert not bed.unknown(arm) and not arm.stored
    config = config_of(bed, arm, 0)
    files = [bed.texts / f"{domain}-unlabelled.jsonl" for domain in of.DOMAINS]
    read = [f"{f.stem.split('-')[0]}={f}" for f in files] if arm.reads else []
    assert config.data.train == ["zoo", *read]
    assert config.data.eval == (["zoo"] if arm.reads else [])
    (phase,) = resolve_phases(config, presets_of(load_registry(config)))
    assert phase.teachers == list(arm.teachers)
    assert phase.loss.delta_ce == (0 if name == "match-both" else 1)
    if arm.teachers:
        assert phase.output.kd == 1
        assert phase.loss.lambda_k == phase.loss.lambda_v == 0


def test_written_text_has_no_end_and_is_of_every_writer(bed):
    config = config_of(bed, ARMS["match-written"], 0)
    assert not config.data.learn_end and len(config.data.train) == 1 + len(of.WRITERS)
    assert config_of(bed, ARMS["match-unlabelled"], 0).data.learn_end


def test_what_was_written_is_paid_by_its_arm_and_is_no_text_without_a_teacher(bed):
    plain, more, written = (
        ARMS[name] for name in (CE_ONLY, "ce-unlabelled", "ce-written")
    )
    assert plain.alone and more.alone and not written.alone
    assert plain.plain and ARMS["ce-longer"].plain and not more.plain
    write_json(bed.making(of.WRITTEN), {"cpu_s": 100.0})
    write_json(bed.making(of.UNLABELLED), {"cpu_s": 0.0})
    result = {"bits": {"code": [[8.0, 4]]}, "cpu_s": 12.0, "leads": {}}
    for arm in (plain, more, written):
        write_json(bed.result(arm, 0), result)
    costs = [read_outcome(bed, arm, [0]).cost for arm in (plain, more, written)]
    assert costs == [12, 12, 112]
    assert list(curves_of([bed], [plain, more], [0])) == [CE_ONLY, "ce-unlabelled"]


def test_every_text_has_its_baseline():
    def texts(arms: list[Arm]) -> set[tuple[str, ...]]:
        return {arm.reads for arm in arms}

    alone = [arm for arm in GROUPS["matching"] if not arm.teachers]
    taught = [arm for arm in GROUPS["matching"] if arm.teachers]
    assert texts(taught) == texts(alone)


def test_unlabelled_text_is_whole_documents_up_to_its_size(tmp_path, monkeypatch):
    documents = {"prose": [("a", "one\n"), ("b", "two"), ("c", "three")], "code": []}
    monkeypatch.setattr(of, "zoo_documents", lambda domain, _: documents[domain])
    monkeypatch.setattr(of, "CHARACTERS", 6)
    of.make_text(tmp_path, of.UNLABELLED)
    lines = (tmp_path / "prose-unlabelled.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["one\n", "tw"]
    made = json.loads((tmp_path / "unlabelled.json").read_text())
    assert made["cpu_s"] == 0
    assert made["files"]["prose-unlabelled.jsonl"] == {"texts": 2, "characters": 6}


@pytest.mark.slow
def test_a_teacher_goes_on_from_the_student_s_text(tmp_path, monkeypatch):
    words = ("Of the other half.", "A sentence of words that goes on and on.")
    given = [TextSample(text, "prose", f"{at}") for at, text in enumerate(words)]
    monkeypatch.setattr(of, "zoo_samples", lambda *_: given)
    monkeypatch.setattr(of, "WRITERS", (("gpt2-prose", "prose", 1),))
    monkeypatch.setattr(of, "NEW", 8)
    of.make_text(tmp_path, of.WRITTEN)
    made = json.loads((tmp_path / "written.json").read_text())
    assert made["cpu_s"] > 0
    text = json.loads((tmp_path / "prose-gpt2-prose.jsonl").read_text())["text"]
    assert text.startswith("A sentence") and text != words[1]
    made = made["files"]["prose-gpt2-prose.jsonl"]
    assert made == {"texts": 1, "characters": len(text)}
