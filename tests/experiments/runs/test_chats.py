"""Conversations from a file to a trained student, each model in its own template."""

import json
import shutil

import pytest
import torch
from torch.nn import functional as F

from align.text.conversation import Conversation
from align.tokenizer_align import CausalCharIoUAligner
from align.tokens.batch import encode_batch
from experiments.assemble.data import Encoder, load_data
from experiments.cli import main
from experiments.texts.config import DataConfig
from student.objective import StepContext
from student.terms.key_value import ce
from teacher.capture.kv_capture import KVCapture
from teacher.loading.models import load_model
from teacher.panel import LiveTeacher, TeacherPanel
from tests.experiments.small_runs import SENTENCES, said, small_config

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('no system role') }}{% endif %}"
    "[{{ m.role | upper }}] {{ m.content | trim }} [END]{% endfor %}"
)


def templated(source, folder, template):
    """A zoo model's folder with a chat template of its own."""
    shutil.copytree(source, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def write_chats(path, count=40, first="user"):
    rows = []
    for i in range(count):
        question, answer = SENTENCES[i % 5], f" {SENTENCES[(i + 2) % 5]} {i}."
        if i % 3:
            turns = [
                {"role": first, "content": question},
                {"role": "assistant", "content": answer},
            ]
            rows.append({"messages": turns})
        else:
            rows.append({"prompt": question, "completion": answer})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def chatty(tiny_zoo, tmp_path_factory):
    """A zoo whose student and gpt2-prose have templates, and qwen-code none."""
    folder = tmp_path_factory.mktemp("chatty")
    return {
        **tiny_zoo,
        "student": templated(tiny_zoo["student"], folder / "student", PLAIN),
        "gpt2-prose": templated(tiny_zoo["gpt2-prose"], folder / "gpt2-prose", STRICT),
    }


@pytest.fixture(scope="module")
def models(chatty):
    names = ("student", "gpt2-prose", "qwen-code")
    return {name: load_model(str(chatty[name]), role="teacher") for name in names}


@pytest.fixture
def data(tmp_path, models):
    """Read and cut by the student's tokens."""
    path = write_chats(tmp_path / "chats.jsonl")
    encode = Encoder(models["student"].tokenizer, 96)
    return load_data(DataConfig(train=[str(path)], max_length=96), encode, 0), encode


def test_a_file_of_chats_keeps_its_turns(data):
    samples = [*data[0].train, *data[0].eval, *data[0].calibration]
    assert all(isinstance(sample.text, Conversation) for sample in samples)
    assert data[0].domains == ["chats"]


def test_every_model_reads_its_own_template_and_contents_alone_meet(data, models):
    texts = [sample.text for sample in data[0].train[:6]]
    batch = data[1](texts)
    teachers = [
        LiveTeacher(name, models[name], KVCapture(models[name].model))
        for name in ("gpt2-prose", "qwen-code")
    ]
    aligner = CausalCharIoUAligner()
    views = TeacherPanel(teachers, aligner, aligner)(batch)
    for text, ids, mask in zip(texts, batch.ids, batch.mask, strict=True):
        tokenizer = models["student"].tokenizer
        own = tokenizer.apply_chat_template(list(text.messages), tokenize=False)
        expected = tokenizer(own, add_special_tokens=False)["input_ids"]
        assert ids[mask].tolist() == expected[: len(ids[mask])]
    for teacher, view in zip(teachers, views, strict=True):
        read = encode_batch(teacher.tokenizer, texts)
        assert view.alignment.shape[2] == read.ids.shape[1] == view.kv.k.shape[3]
        rows, cols = view.alignment.rows, view.alignment.cols
        assert bool(batch.has_text.flatten()[rows].all())
        assert bool(read.has_text.flatten()[cols].all())
        assert view.alignment.coverage(batch.has_text) > 0.8
    strict = encode_batch(teachers[0].tokenizer, texts)
    assert "[USER]" in teachers[0].tokenizer.decode(strict.ids[0])
    plain = encode_batch(teachers[1].tokenizer, texts)
    assert "[USER]" not in teachers[1].tokenizer.decode(plain.ids[0])


def test_the_next_token_loss_is_over_contents_and_their_ends(data):
    batch = data[1]([sample.text for sample in data[0].train[:3]])
    logits = torch.randn(*batch.ids.shape, 9000)
    counted = batch.has_text.clone()
    counted[:, 1:] |= batch.has_text[:, :-1] & batch.mask[:, 1:]
    each = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
    )
    expected = each[counted[:, 1:].flatten()].mean()
    got = ce(StepContext(batch=batch, output=logits))
    torch.testing.assert_close(got, expected)
    assert int(counted.sum()) < int(batch.mask.sum())


def test_long_conversations_lose_their_ends_and_that_is_said(tmp_path, models):
    path = tmp_path / "long.jsonl"
    turns = [
        {"role": role, "content": SENTENCES[i % 5]}
        for i, role in enumerate(["user", "assistant"] * 8)
    ]
    rows = [
        [{"role": "user", "content": f"{i}."}, *turns[1 : 2 + 14 * (i % 2)]]
        for i in range(12)
    ]
    path.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    encode = Encoder(models["student"].tokenizer, 64)
    data = load_data(DataConfig(train=[str(path)], max_length=64), encode, 0)
    samples = [*data.train, *data.eval]
    assert len(samples) == 12
    wholes = ["".join(turn["content"] for turn in row) for row in rows]
    whole = {text.partition(".")[0]: text for text in wholes}
    cut = 0
    for sample in samples:
        text = whole[sample.text.partition(".")[0]]
        assert text.startswith(sample.text)
        assert sample.text.goes_on == (sample.text != text)
        cut += sample.text.goes_on
        batch = encode([sample.text])
        assert int(batch.mask.sum()) <= 64
        assert int(batch.touched_until.max()) == len(sample.text)  # read whole
    assert cut == 6
    (said_,) = data.warnings
    assert "6 of 12 conversations are longer than 64" in said_
    assert "data.max_length decides" in said_


def test_plain_chats_are_texts(tmp_path, models):
    path = write_chats(tmp_path / "chats.jsonl")
    config = DataConfig(train=[str(path)], max_length=96, chats="plain")
    data = load_data(config, Encoder(models["student"].tokenizer, 96), 0)
    assert not any(isinstance(sample.text, Conversation) for sample in data.train)
    assert any("assistant: " in sample.text for sample in data.train)


@pytest.mark.slow
def test_a_run_learns_from_conversations(tmp_path, chatty):
    chats = write_chats(tmp_path / "chats.jsonl")
    settings = {"data": {"train": [str(chats)], "max_length": 96}}
    config = small_config(tmp_path, chatty, settings)
    assert main(["train", str(config)]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (phase,) = summary["phases"]
    assert min(phase["coverage"].values()) > 0.8
    assert list(phase["bpc"]) == ["chats"]
    facts = summary["teachers"]["gpt2-prose"]
    assert set(facts["bpc"]) == {"chats"}
    assert facts["reading"]["coverage"] > 0.8
    report = (tmp_path / "run" / "report.md").read_text()
    assert "- gpt2-prose reaches " in report
    assert "| dual | gpt2-prose | " in report.partition("adapters let through")[2]
    lines = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").open()]
    readings = [line for line in lines if line["kind"] == "reading"]
    assert [line["teacher"] for line in readings] == ["gpt2-prose", "qwen-code"]


def test_a_template_that_refuses_is_found_before_work(tmp_path, chatty, capsys):
    chats = write_chats(tmp_path / "chats.jsonl", first="system")
    config = small_config(tmp_path, chatty, {"data": {"train": [str(chats)]}})
    code, message = said(["train", str(config)], capsys)
    assert code != 0
    assert "teachers.gpt2-prose: chats.jsonl:" in message
    assert "no system role" in message
    assert not (tmp_path / "run" / "phases").exists()
