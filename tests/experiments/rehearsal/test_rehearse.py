"""A run tried out: what `mtkd train --dry-run` says is what the run does."""

import json

import pytest

from experiments.cli import main
from experiments.config.presets import load_registry
from experiments.config.tree import load_config
from experiments.rehearsal.readers import shared_pieces
from experiments.rehearsal.rehearse import rehearse
from experiments.run.plan import plan_run
from tests.experiments.small_runs import said, small_config, write_text


def tried(path, *words):
    config = load_config(path, words)
    return rehearse(plan_run(config, load_registry(config)))


@pytest.mark.slow
def test_its_first_step_is_the_run_s_and_nothing_is_written(tiny_zoo, tmp_path):
    path = small_config(tmp_path, tiny_zoo, {"train": {"steps": 1, "grad_accum": 2}})
    before = sorted(tmp_path.rglob("*"))
    rehearsal = tried(path)
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["train", str(path)]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (trained,) = [x for x in map(json.loads, lines) if x["kind"] == "train"]
    (phase,) = rehearsal.phases
    assert phase.step["loss"] == pytest.approx(trained["loss"], rel=1e-5)
    assert phase.step["terms"] == pytest.approx(trained["terms"], rel=1e-4)
    assert phase.step["grad_norm"] == pytest.approx(trained["grad_norm"], rel=1e-4)
    assert {row.name: row.value for row in phase.terms} == phase.step["terms"]
    needs = {row.name: (row.needs, list(row.teachers)) for row in phase.terms}
    both = ["gpt2-prose", "qwen-code"]
    assert needs["ce"] == ("the text itself", [])
    assert needs["kv_k"] == ("keys and values", both)
    assert needs["attention_kl"] == ("attention", both)
    (domain,) = rehearsal.domains
    assert [c.reader for c in domain.counted] == ["student", "gpt2-prose", "qwen-code"]
    covered = [c.covered for c in domain.counted[1:]]
    assert all(0.9 < share <= 1 for share in covered)
    masks = phase.masks
    assert masks.labels == masks.tokens - 4  # of four texts all but the first token
    for compared in masks.compared:
        of_text = compared.tokens + compared.sinks + compared.uncovered
        assert of_text == masks.tokens - masks.marks
    (arm,) = rehearsal.needs.arms
    assert (arm.arm, arm.steps) == ("main", 1)


def test_pieces_are_counted_that_two_vocabularies_share(tiny_zoo):
    from transformers import AutoTokenizer

    student, teacher, bert = (
        AutoTokenizer.from_pretrained(tiny_zoo[name])
        for name in ("student", "qwen-code", "bert-mixed")
    )
    assert shared_pieces(student, student) == "the student's vocabulary"
    assert "pieces, " in shared_pieces(student, teacher)
    assert shared_pieces(student, bert).startswith("unknown")


def test_a_model_that_is_not_built_is_not_built_by_it(
    tiny_zoo, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MTKD_CACHE", str(tmp_path / "empty"))
    path = str(small_config(tmp_path, tiny_zoo))
    word = "teachers.qwen-code.model=zoo:tiny/qwen-code"
    code, message = said(["train", path, "--dry-run", word], capsys)
    assert code == 2 and "has not been built" in message
    assert "zoo build" in message
    assert not (tmp_path / "empty/zoo").exists()


CHAT = {
    "messages": [
        {"role": "user", "content": "Which teacher helps which word, number {}?"},
        {"role": "assistant", "content": "The router knows it, in case {}."},
    ]
}


@pytest.mark.slow
def test_every_kind_of_teacher_text_and_phase_is_shown(tiny_zoo, tmp_path, capsys):
    chats = tmp_path / "chats.jsonl"
    rows = [json.dumps(CHAT).replace("{}", str(n)) for n in range(30)]
    chats.write_text("\n".join(rows))
    write_text(tmp_path / "text.txt")
    changes = {
        "teachers": {"bert": {"model": str(tiny_zoo["bert-mixed"])}},
        "data": {"train": [f"t={tmp_path / 'text.txt'}", str(chats)], "max_length": 64},
        "phases": ["multi_basic", "z_space"],
        "baselines": {"ce_only": True, "single_teachers": "all"},
        "output": {"projected_kl": 1},
    }
    path = str(small_config(tmp_path, tiny_zoo, changes))
    assert main(["train", path, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[" not in shown  # no terminal, no colours
    for words in (
        "phase z_space: gpt2-prose, qwen-code, bert",  # as --check says it
        "unknown: its tokens do not spell their blanks",
        "turns of assistant: 27",
        "z_agreement",
        "next-token outputs",
        "here from the run's student",
        "single:bert",
        "nothing was written to",
    ):
        assert words in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stored_teachers_are_read_and_not_loaded(tiny_zoo, tmp_path, monkeypatch):
    store = {"dir": str(tmp_path / "kv"), "shard_samples": 16}
    path = small_config(tmp_path, tiny_zoo, {"store": store, "loss": {"gamma_kl": 0}})
    assert main(["extract", str(path)]) == 0
    asked = "teacher.live_teacher.LiveTeacher.ask"
    monkeypatch.setattr(asked, lambda *_: pytest.fail("asked live"))
    rehearsal = tried(path, "store.read=true")
    assert rehearsal.memory["teachers' weights"] == 0
    assert rehearsal.phases[0].step["terms"].keys() == {"ce", "kv_k", "kv_v", "cosine"}
