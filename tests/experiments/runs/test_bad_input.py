"""What goes wrong gives one clear message and an exit code, and costs no work done.

Every case goes through the command. ``tests/experiments/runs/test_lost_work.py`` holds
what goes wrong in the middle of a run.
"""

import re

import pytest

from experiments.cli import main
from teacher.loading import widen
from tests.experiments import spoiled
from tests.experiments.small_runs import said, small_config

USER_ERROR = 2


@pytest.fixture
def refused(tiny_zoo, tmp_path, capsys):
    """Run a config that cannot work; give its message and see that nothing began."""

    def run(changes, *words):
        config = small_config(tmp_path, tiny_zoo, changes)
        code, message = said(["train", str(config), *words], capsys)
        assert code == USER_ERROR
        assert message.startswith("mtkd: error: ")
        run = tmp_path / "run"
        left = [p for p in run.rglob("*") if p.is_file() and p.name != ".lock"]
        assert left == []  # the corrected command starts a new run here
        return message

    return run


def as_teacher(model):
    return {"teachers": {"odd": {"model": str(model)}}}


def as_student(model):
    return {"student": {"model": str(model)}}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (as_teacher("/nowhere/x"), ["teachers.odd: ", "'/nowhere/x': no such folder"]),
        (as_student("./nowhere"), ["student: ", "'./nowhere': no such folder"]),
        (as_student("zoo:nope"), ["no model 'nope'. It has gpt2-prose, qwen-code"]),
        (
            as_teacher("some/model"),
            ["teachers.odd: ", "cache", "offline", "hf download some/model"],
        ),
        (
            {"data": {"train": ["/no/such.txt"]}},
            ["data.train: no text at /no/such.txt", "give a file or folder of text"],
        ),
        (
            {"data": {"eval": ["news=/no/such.txt"]}},
            ["data.eval: no text at /no/such.txt"],
        ),
    ],
    ids=["teacher", "student", "zoo", "hub", "text", "held-out text"],
)
def test_what_is_missing_is_named_with_its_place(refused, monkeypatch, changes, parts):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = refused(changes)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "holds no text; give a file with text"),
        (b" \r\n\n\t\n", "holds no text; give a file with text"),
        (b"one\ntwo \xff\xfe", "byte 8 (line 2) is 0xff, which is not UTF-8"),
        (b"one line", "1 training and 0 held-out samples"),
    ],
    ids=["empty", "blank", "not UTF-8", "too little"],
)
def test_text_that_cannot_be_read_names_the_file(refused, tmp_path, data, part):
    file = tmp_path / "odd.txt"
    file.write_bytes(data)
    message = refused({"data": {"train": [str(file)]}})
    assert part in message
    assert "data" in message


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("model.safetensors", "is damaged: Error while deserializing header"),
        ("config.json", "config.json cannot be used"),
        ("tokenizer.json", "tokenizer.json cannot be read"),
    ],
)
@pytest.mark.parametrize("role", [as_teacher, as_student], ids=["teacher", "student"])
def test_a_damaged_file_of_a_model_is_named(
    refused, tiny_zoo, tmp_path, role, file, part
):
    folder = spoiled.copied(tiny_zoo["qwen-code"], tmp_path / "odd")
    spoiled.truncated(folder / file)
    message = refused(role(folder))
    assert part in message
    assert str(folder) in message
    assert message.startswith("mtkd: error: teachers.odd: " if role is as_teacher else
                              "mtkd: error: student: ")  # fmt: skip


@pytest.mark.parametrize("role", [as_teacher, as_student], ids=["teacher", "student"])
def test_a_slow_tokenizer_is_refused(refused, tmp_path, role):
    message = refused(role(spoiled.with_slow_tokenizer(tmp_path / "odd")))
    assert "has the slow tokenizer ByT5Tokenizer" in message
    assert "convert it to a tokenizer.json" in message


@pytest.fixture
def quiet_library():
    """Without transformers' own notes, such as on kernels that are not installed."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@pytest.mark.usefixtures("quiet_library")
@pytest.mark.parametrize("role", [as_teacher, as_student], ids=["teacher", "student"])
@pytest.mark.parametrize(("kind", "name"), [("mamba", "Mamba"), ("rwkv", "Rwkv")])
def test_a_model_without_attention_is_refused(
    refused, tiny_zoo, tmp_path, role, kind, name
):
    folder = spoiled.without_attention(tmp_path / "odd", tiny_zoo["qwen-code"], kind)
    message = refused(role(folder))
    assert f"{name}ForCausalLM cannot be captured" in message
    assert "supported are models whose attention goes through" in message


@pytest.mark.slow
def test_texts_longer_than_a_teacher_reads_are_refused_before_work(
    refused, tiny_zoo, tmp_path
):
    folder = spoiled.short_sighted(tmp_path / "odd", tiny_zoo["gpt2-prose"], 16)
    changes = as_teacher(folder)
    changes["teachers"]["odd"]["long_texts"] = "refuse"
    message = refused(changes)
    assert "teacher 'odd' has 16 positions, but text text.txt:" in message
    fitting = re.search(r"data\.max_length=(\d+)", message)[1]
    assert 8 <= int(fitting) < 32
    config = small_config(tmp_path, tiny_zoo, changes)
    words = [f"data.max_length={fitting}", "run.name=fitting", "train.steps=1"]
    assert main(["train", str(config), *words]) == 0  # what is advised works at once
    message = refused(as_student(folder))
    assert "data.max_length is 32, but the student" in message
    assert "set data.max_length=16 or less" in message


@pytest.mark.parametrize("specials", [True, False])
def test_a_teacher_that_covers_nothing_is_refused(refused, tmp_path, specials):
    message = refused(as_teacher(spoiled.deaf(tmp_path / "odd", specials)))
    assert "teacher 'odd' covers no token of the student" in message
    assert "leave the teacher out" in message


@pytest.mark.parametrize("part", ["k_proj", "embed_tokens", "model.norm"])
@pytest.mark.parametrize("role", [as_teacher, as_student], ids=["teacher", "student"])
def test_weights_that_are_not_finite_are_found_before_work(
    refused, tiny_zoo, tmp_path, role, part
):
    """The last norm lies behind every layer that distillation reads."""
    folder = spoiled.copied(tiny_zoo["qwen-code"], tmp_path / "odd")
    spoiled.reweighted(folder, part, lambda w: w * float("nan"))
    message = refused(role(folder))
    assert part in message
    assert "not finite in float32" in message


def test_a_type_too_narrow_for_a_teacher_is_not_blamed_on_its_family(
    refused, tiny_zoo, tmp_path, monkeypatch
):
    monkeypatch.setattr(widen, "pays", lambda dtype: True)  # as on a GPU
    folder = spoiled.copied(tiny_zoo["neox-mixed"], tmp_path / "odd")
    spoiled.reweighted(
        folder, "query_key_value.weight", lambda w: w * (6e4 / w.abs().max())
    )
    odd = {"odd": {"model": str(folder), "dtype": "float16"}}
    message = refused({"teachers": odd})
    assert "teachers.odd: GPTNeoXForCausalLM gives keys or values" in message
    assert "not finite in float16" in message
    assert "float32" in message


@pytest.mark.parametrize(
    ("changes", "words", "parts"),
    [
        ({"trian": {}}, [], ["unknown config key 'trian'", "mean 'train'?"]),
        ({}, ["train.stpes=3"], ["'train.stpes'", "mean 'train.steps'?"]),
        ({}, ["train.steps=many"], ["train.steps is 'many'; give an integer >= 0"]),
        ({"train": {"steps": [3]}}, [], ["train.steps is [3]; give an integer"]),
        ({"teachers": 5}, [], ["teachers is 5; give a mapping"]),
        ({"train": {"learning_rate": -1}}, [], ["rate is -1; give a number in (0, "]),
        ({"phases": ["duel"]}, [], ["duel", "did you mean 'dual'?"]),
        ({"align": {"aligner": "chars"}}, [], ["no aligner is called 'chars'"]),
        ({"fuse": {"weights": [1.0]}}, [], ["fuse.weights has 1 entries"]),
    ],
    ids=[
        "section", "key", "type", "type in file", "mapping", "range", "phase", "name",
        "count",
    ],
)  # fmt: skip
def test_a_wrong_key_type_or_name_says_what_is_valid(refused, changes, words, parts):
    message = refused(changes, *words)
    for part in parts:
        assert part in message


def test_a_config_that_is_no_yaml_is_named_by_line(tmp_path, capsys):
    file = tmp_path / "odd.yaml"
    file.write_text("run: {name: x}\ntrain: [\n")
    code, message = said(["train", str(file)], capsys)
    assert code == USER_ERROR
    assert f"{file} line 3" in message
    file.write_bytes(b"run: \xff")
    code, message = said(["train", str(file)], capsys)
    assert code == USER_ERROR
    assert "not UTF-8 at byte 5" in message


@pytest.mark.parametrize(
    ("phases", "teachers", "part"),
    [
        (["dual", "routing"], ["gpt2-prose", "qwen-code"], "phase 'routing' needs at "
         "least 3 teachers of kind decoder, but 2 fit (gpt2-prose, qwen-code)"),
        (["dual"], ["gpt2-prose", "bert-mixed"], "phase 'dual' needs at least 2 "
         "teachers of kind decoder, but 1 fit (gpt2-prose)"),
        (["dual"], [], "phase 'dual' needs at least 2"),
    ],
)  # fmt: skip
def test_a_phase_that_needs_more_teachers_says_so_before_any_phase_runs(
    tiny_zoo, tmp_path, capsys, phases, teachers, part
):
    config = small_config(tmp_path, tiny_zoo, {"phases": phases})
    chosen = ", ".join(f"{name}: {tiny_zoo[name]}" for name in teachers)
    import yaml

    full = yaml.safe_load(config.read_text())
    full["teachers"] = yaml.safe_load(f"{{{chosen}}}")
    config.write_text(yaml.safe_dump(full))
    code, message = said(["train", str(config)], capsys)
    assert code == USER_ERROR
    assert part in message
    assert "Add some under 'teachers', give 'phases' without it" in message
    assert not (tmp_path / "run" / "phases").exists()


def test_two_plugins_with_one_name_are_both_named(refused, tmp_path):
    files = [tmp_path / "one.py", tmp_path / "two.py"]
    for file in files:
        file.write_text(
            "from fuse import LearnableRouter\nfrom plugins import hookimpl\n\n\n"
            "@hookimpl\ndef routers():\n    return {'loud': LearnableRouter}\n"
        )
    message = refused({}, "--plugin", str(files[0]), "--plugin", str(files[1]))
    assert "two plugins claim the router 'loud'" in message
    for file in files:
        assert str(file) in message


def test_a_full_disk_is_seen_before_work(refused, tmp_path, monkeypatch):
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, 2**20))
    message = refused({})
    assert f"MiB under {tmp_path / 'run'}, but 1 MiB are free" in message
    assert "set run.dir to another disk" in message
