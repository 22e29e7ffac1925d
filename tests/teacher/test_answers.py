"""What teachers said is said again, bit for bit, without a forward."""

from dataclasses import fields

import pytest
import torch

from align.tokenizer_align import (
    CausalCharIoUAligner,
    CharIoUAligner,
    encode_batch,
)
from align.views import TeacherView
from teacher.answers import Answers
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.loading.models import load_model
from teacher.panel import TeacherPanel

TEXTS = ("the unbelievable transformation", "def read(path): pass", "naïve 深度 KV")
OTHERS = ("something else", "x = 1", "…")
ALL = {"attention": True, "own_loss": True, "foretold": True}
ROWS = torch.tensor([[0, 2], [1, 3], [0, 1]])


@pytest.fixture(scope="module")
def teachers(tiny_zoo):
    def live(name):
        loaded = load_model(str(tiny_zoo[name]))
        return LiveTeacher(name, loaded, KVCapture(loaded.model))

    return [live(name) for name in ("qwen-code", "bert-mixed")]


@pytest.fixture(scope="module")
def tokenizer(tiny_zoo):
    return load_model(str(tiny_zoo["student"])).tokenizer


@pytest.fixture
def forwards(monkeypatch):
    """Names of the teachers whose model runs, one each time."""
    names, ask = [], LiveTeacher.ask

    def counted(self, *given):
        names.append(self.name)
        return ask(self, *given)

    monkeypatch.setattr(LiveTeacher, "ask", counted)
    return names


def panel(teachers, answers, aligner=None, **asked):
    return TeacherPanel(
        teachers,
        aligner or CharIoUAligner(),
        CausalCharIoUAligner(),
        outputs=["qwen-code"],
        answers=answers,
        **asked,
    )


def answers_in(folder, memory=1 << 30, disk=1 << 30):
    return Answers(["qwen-code", "bert-mixed"], folder / "a", memory=memory, disk=disk)


def numbers(view: TeacherView):
    """Every tensor of a view, by name."""
    kv, output = view.kv, view.output
    named = {
        "k": kv.k,
        "v": kv.v,
        "mask": kv.mask,
        "attention": view.attention,
        "bits": view.bits_per_char,
        "foretold": None if view.foretold is None else view.foretold.log_probs,
        "hidden": None if output is None else output.hidden,
        "rows": view.alignment.rows,
        "weights": view.alignment.weights,
    }
    return {name: x for name, x in named.items() if x is not None}


def check_same(before, after):
    for old, new in zip(before, after, strict=True):
        assert [f.name for f in fields(old)] == [f.name for f in fields(new)]
        olds, news = numbers(old), numbers(new)
        assert olds.keys() == news.keys()
        for name, tensor in olds.items():
            assert torch.equal(tensor, news[name]), name
            assert tensor.stride() == news[name].stride(), name
            assert tensor.dtype == news[name].dtype, name
        assert (old.output is None) == (new.output is None)
        assert (old.causal is None) == (new.causal is None)


@pytest.mark.parametrize("memory", [1 << 30, 0, 40_000])  # all, none, some of it
def test_answers_are_the_teacher_s_own_wherever_they_lie(
    teachers, tokenizer, tmp_path, forwards, memory
):
    answers = answers_in(tmp_path, memory)
    asking = panel(teachers, answers, **ALL)
    names = [teacher.name for teacher in teachers]
    batch = encode_batch(tokenizer, TEXTS)
    with answers.during("phase", names, names):
        first = asking(batch, ROWS)
    assert forwards == names
    bare = panel(teachers, None, **ALL)(batch, ROWS)
    forwards.clear()
    again = panel(teachers, answers, **ALL)(batch, ROWS)
    assert forwards == []
    check_same(bare, first)
    check_same(bare, again)
    held = answers.held
    assert held["memory"] <= memory
    assert (held["disk"] > 0) == (memory < 1 << 30)
    files = list((tmp_path / "a").glob("*"))
    assert bool(files) == (held["disk"] > 0)
    answers.close()
    assert not (tmp_path / "a").exists() and answers.held == {"memory": 0, "disk": 0}


def test_a_lesser_question_is_answered_and_a_greater_one_is_asked_once(
    teachers, tokenizer, tmp_path, forwards
):
    answers, batch = answers_in(tmp_path), encode_batch(tokenizer, TEXTS)
    qwen, names = teachers[:1], ["qwen-code"]
    more, less = ({"own_loss": own} for own in (True, False))
    with answers.during("phase", names, names):
        panel(qwen, answers, **less)(batch)
        panel(qwen, answers, **more)(batch)
        assert len(forwards) == 2
        view = panel(qwen, answers, **less)(batch)[0]
        assert view.bits_per_char is None
        assert panel(qwen, answers, **more)(batch)[0].bits_per_char is not None
        assert panel(qwen, answers, kv=())(batch)[0].kv is None
    assert len(forwards) == 2


def test_what_an_answer_depends_on_makes_another_question(
    teachers, tokenizer, tmp_path, forwards
):
    answers, batch = answers_in(tmp_path), encode_batch(tokenizer, TEXTS)
    qwen, names = teachers[:1], ["qwen-code"]
    questions = [
        (panel(qwen, answers), batch, None),
        (panel(qwen, answers), encode_batch(tokenizer, OTHERS), None),
        # other neighbours are other padding, and other sums
        (panel(qwen, answers), encode_batch(tokenizer, TEXTS[:2]), None),
        (panel(qwen, answers, layers={"qwen-code": [0]}), batch, None),
        (panel(qwen, answers, autocast=torch.bfloat16), batch, None),
        (panel(qwen, answers, attention=True), batch, ROWS),
        (panel(qwen, answers, attention=True), batch, ROWS + 1),
        (panel(qwen, answers, layers={"qwen-code": [1]}, heads=True), batch, ROWS),
        (panel(qwen, answers, CausalCharIoUAligner(), attention=True), batch, ROWS),
    ]
    for _ in range(2):
        with answers.during("phase", names, names):
            for asking, texts, rows in questions:
                asking(texts, rows)
        assert len(forwards) == len(questions)


def test_what_nobody_asks_again_is_not_kept(teachers, tokenizer, tmp_path, forwards):
    answers, batch = answers_in(tmp_path, disk=0), encode_batch(tokenizer, TEXTS)
    names = [teacher.name for teacher in teachers]
    asking = panel(teachers, answers)
    with answers.during("calibration", names, ["bert-mixed"]):
        asking(batch)
        asking(batch)
    assert forwards == names
    with answers.during("calibration", names, []):
        asking(batch)
    assert forwards == [*names, "qwen-code"]
    assert answers.held["memory"] == 0
    asking(batch)  # of no chapter
    with answers.during("phase", [], names):
        asking(batch)
    assert answers.held["memory"] == 0
    strangers = Answers(["gpt2-prose"], tmp_path, memory=1 << 30, disk=0)
    with strangers.during("phase", names, names):
        panel(teachers, strangers)(batch)
    assert strangers.held["memory"] == 0


def test_what_has_no_room_is_asked_again(teachers, tokenizer, tmp_path, forwards):
    batch, names = encode_batch(tokenizer, TEXTS), ["qwen-code"]
    for answers in (
        answers_in(tmp_path, memory=100, disk=100),
        Answers(names, tmp_path / "file" / "a", memory=0, disk=1 << 30),
    ):
        (tmp_path / "file").write_text("in the way of a folder")
        forwards.clear()
        with answers.during("phase", names, names):
            for _ in range(2):
                panel(teachers[:1], answers)(batch)
        assert forwards == names * 2 and answers.held == {"memory": 0, "disk": 0}
