"""A teacher that was trained on shorter texts does as ``long_texts`` says."""

import json

import pytest

from experiments.cli import main
from tests.experiments import spoiled
from tests.experiments.small_runs import said, small_config


@pytest.fixture
def start(tiny_zoo, tmp_path, capsys):
    """Start a run with a teacher of few positions, or a rotary one, and a choice."""

    def run(long_texts, rotary=False):
        folder = tmp_path / "odd"
        if rotary:
            folder = tmp_path / "rotary"
            folder.mkdir()
            for file in tiny_zoo["qwen-code"].iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            config = json.loads((folder / "config.json").read_text())
            config["max_position_embeddings"] = 16
            (folder / "config.json").write_text(json.dumps(config))
        else:
            spoiled.short_sighted(folder, tiny_zoo["gpt2-prose"], 16)
        odd = {"model": str(folder), "long_texts": long_texts}
        return str(small_config(tmp_path, tiny_zoo, {"teachers": {"odd": odd}}))

    return run


@pytest.mark.parametrize("rotary", [False, True])
def test_refuse_names_the_text_and_the_other_choice(start, capsys, rotary):
    code, message = said(["train", start("refuse", rotary)], capsys)
    assert code == 2
    has = "was trained on 16 tokens" if rotary else "has 16 positions"
    assert f"teacher 'odd' {has}, but text text.txt:" in message
    does = "slows its rotation for all texts" if rotary else "cuts such texts shorter"
    assert f"teachers.odd.long_texts=extend, which {does}, " in message
    assert "teachers.odd.long_texts=window" in message


@pytest.mark.slow
def test_a_position_table_is_read_in_windows(start, tmp_path):
    assert main(["train", start("window")]) == 0
    assert (tmp_path / "run" / "report.md").is_file()


@pytest.mark.slow
def test_a_windowed_rotation_keeps_its_base(start, monkeypatch):
    from experiments import models

    def extended(model, *_):
        if model.config.max_position_embeddings == 16:
            raise AssertionError("the base was changed")

    monkeypatch.setattr(models, "extend_context", extended)
    assert main(["train", start("window", rotary=True)]) == 0
