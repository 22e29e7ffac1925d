"""Pipes, devices and files of the system's, wherever a command takes a path."""

import os
import shutil
from pathlib import Path

import pytest

from tests.everyday import some_daily
from tests.experiments.small_runs import said, small_config, write_text


@pytest.fixture
def pipe(tmp_path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


SPECIAL = {"pipe": "is a pipe", "zero": "is a device", "kernel": "of the system's"}


@pytest.fixture(params=SPECIAL)
def special(request, tmp_path) -> tuple[Path, str]:
    path = tmp_path / request.param
    if request.param == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"zero": "/dev/zero", "kernel": "/proc/kmsg"}[request.param])
    return path, SPECIAL[request.param]


def test_as_a_config(special, capsys):
    path, refusal = special
    code, message = said(["config", "show", str(path)], capsys)
    assert code == 2 and refusal in message and str(path) in message


@pytest.mark.parametrize(
    "suffix",
    some_daily(
        ["", ".jsonl", ".json", ".csv", ".parquet", ".arrow"],
        lambda suffix: suffix in ("", ".parquet"),
    ),
)
def test_as_a_text(special, suffix, tmp_path, capsys):
    path, refusal = special
    named = tmp_path / f"text-{path.name}{suffix}"
    path.rename(named)
    for words in (f"data.train=[{named}]", f"data.eval=[{named}]"):
        train = (
            [] if "train" in words else [f"data.train=[{write_text(tmp_path / 't')}]"]
        )
        look = ["student.model=zoo:student", "teachers=[zoo:gpt2-prose]", *train, words]
        code, message = said(["train", "--check", *look], capsys)
        assert code == 2 and refusal in message and str(named) in message


def test_as_a_text_in_a_folder(special, tmp_path, capsys):
    path, refusal = special
    folder = tmp_path / "texts"
    folder.mkdir()
    write_text(folder / "a.txt")
    path.rename(folder / "b.txt")
    look = ["student.model=zoo:student", "teachers=[zoo:gpt2-prose]"]
    words = ["train", "--check", *look, f"data.train=[{folder}]"]
    code, message = said(words, capsys)
    assert code == 2 and refusal in message and "b.txt" in message


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "adapter_config.json"],
)
def test_as_a_file_of_a_model(special, name, tiny_zoo, tmp_path, capsys):
    path, refusal = special
    model = tmp_path / "model"
    shutil.copytree(tiny_zoo["gpt2-prose"], model)
    (model / name).unlink(missing_ok=True)
    path.rename(model / name)
    config = small_config(tmp_path, tiny_zoo)
    words = ["train", "--check", str(config), f"student.model={model}"]
    code, message = said(words, capsys)
    assert code == 2 and refusal in message and name in message


def test_as_a_plugin(special, tmp_path, capsys):
    path, refusal = special
    plugin = tmp_path / "mine.py"
    path.rename(plugin)
    code, message = said(["plugins", "list", "--plugin", str(plugin)], capsys)
    assert code == 2 and refusal in message and "mine.py" in message


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["report"],
        ["eval"],
        ["generate"],
        ["store", "info"],
        ["store", "verify"],
    ],
)
def test_as_a_run_or_a_store(words, pipe, tmp_path, capsys):
    more = ["--prompt", "a"] if words == ["generate"] else []
    code, message = said([*words, str(pipe), *more], capsys)
    assert code == 2 and str(pipe) in message
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "summary.json",
        "store.json",
        "plan.json",
    ):
        folder = tmp_path / f"in-{name}"
        folder.mkdir()
        os.mkfifo(folder / name)
        code, message = said([*words, str(folder), *more], capsys)
        assert code == 2 and str(folder) in message


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", "state.json"])
def test_as_a_file_of_the_run_to_be(name, tiny_zoo, tmp_path, capsys):
    config = small_config(tmp_path, tiny_zoo, {"run": {"name": "r"}})
    config = config.rename(tmp_path / "my.yaml")
    (tmp_path / "r").mkdir()
    os.mkfifo(tmp_path / "r" / name)
    code, message = said(["train", str(config)], capsys)
    assert code == 2 and "is a pipe" in message and name in message
