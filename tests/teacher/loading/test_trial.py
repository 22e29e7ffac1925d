"""What would end or fill our process ends one of its own."""

import json
import subprocess

import pytest

from teacher.loading import trial
from teacher.loading.trial import try_file, try_text


@pytest.fixture(autouse=True)
def small_bounds(tmp_path, monkeypatch):
    monkeypatch.setenv("MTKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "SECONDS", 2)
    monkeypatch.setattr(trial, "GIBIBYTES", 2)


@pytest.fixture
def tokenizer(tiny_zoo, tmp_path):
    """The file of a small tokenizer, with other settings."""

    def write(**changes):
        content = json.loads((tiny_zoo["gpt2-prose"] / "tokenizer.json").read_text())
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(content | changes))
        return path

    return write


PADDING = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
PADDING |= {"pad_type_id": 0, "pad_token": "x", "strategy": {"Fixed": 1 << 40}}
DEEP: dict = {"type": "Sequence", "normalizers": []}
for _ in range(200):
    DEEP = {"type": "Sequence", "normalizers": [DEEP]}


@pytest.mark.parametrize(
    "changes",
    [
        {"padding": PADDING},
        {"normalizer": DEEP},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////"}},
        {"model": {"type": "Unigram", "vocab": [], "unk_id": 7}},
    ],
    ids=["memory", "depth", "panic", "empty"],
)
def test_a_tokenizer_that_ends_its_reader_is_refused_in_one_line(tokenizer, changes):
    path = tokenizer(**changes)
    with pytest.raises(ValueError) as refused:
        try_file(path, "tokenizer", f"model 'm': {path}")
    message = str(refused.value)
    assert message.startswith(f"model 'm': {path} cannot be read: ")
    assert "\n" not in message and len(message) < 600


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
        "{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x' * 10 ** 10 }}",
        "{% set n = namespace(t='xx') %}"
        "{% for a in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 10 ** (10 ** 10) }}",
    ],
    ids=["endless", "output", "memory", "doubled", "recursion", "power"],
)
def test_a_template_that_takes_too_much_is_refused_in_one_line(template, monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 1)  # some burn all they are given
    with pytest.raises(ValueError) as refused:
        try_text(template, "template", "model 'm': the chat template of there")
    message = str(refused.value)
    assert message.startswith("model 'm': the chat template of there cannot be read: ")
    assert "\n" not in message and len(message) < 400


def test_what_is_read_once_is_not_tried_again(tokenizer, monkeypatch):
    path = tokenizer()
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    try_file(path, "tokenizer", "it")
    try_text(template, "template", "it")

    def fail(*_, **__):
        raise AssertionError("tried again")

    monkeypatch.setattr(subprocess, "run", fail)
    try_file(path, "tokenizer", "it")
    try_text(template, "template", "it")
    path.write_text(path.read_text() + " ")
    with pytest.raises(AssertionError, match="tried again"):
        try_file(path, "tokenizer", "it")


def test_what_a_template_refuses_is_its_right():
    try_text("{{ raise_exception('only pairs') }}", "template", "it")
    try_text("{{ ''.__class__.__mro__ }}", "template", "it")
    try_text("{% if %}", "template", "it")
