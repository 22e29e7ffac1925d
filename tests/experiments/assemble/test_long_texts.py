"""A teacher that was trained on shorter texts does as ``long_texts`` says."""

import json

import pytest
import torch

from align.text.documents import TextSample
from experiments.assemble.models import Models
from experiments.cli import main
from experiments.config.tree import load_config
from plugins import builtin
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


@pytest.mark.slow
@pytest.mark.parametrize("rotary", [False, True])
def test_refuse_names_the_text_and_the_other_choice(start, capsys, rotary):
    code, message = said(["train", start("refuse", rotary)], capsys)
    assert code == 2
    has = "was trained on 16 tokens" if rotary else "has 16 positions"
    assert f"teacher 'odd' {has}, but text text.txt:" in message
    does = "slows its rotation for all texts" if rotary else "cuts such texts shorter"
    assert f"teachers.odd.long_texts=extend, which {does}, " in message
    assert "teachers.odd.long_texts=window" in message


def test_extend_says_whose_rotation_is_slowed_for_which_text(start):
    models = Models(load_config(start("extend", rotary=True)), torch.device("cpu"))
    loaded = models.live["odd"].loaded
    texts = [
        TextSample(text, "a", f"a:{n}") for n, text in enumerate(["if", "if " * 30])
    ]
    tokens = len(loaded.tokenizer(texts[1].text).input_ids)
    assert tokens > 16
    buffers = loaded.model.named_buffers()
    rotation = next(b for name, b in buffers if name.endswith("inv_freq"))
    before = rotation.clone()
    assert models.fit_lengths(texts, builtin.rope_scalers()["ntk"]) == [
        f"teacher 'odd' was trained on 16 tokens and text a:1 has {tokens} of them: "
        f"its rotation is slowed down (ntk, factor {tokens / 16:.2f}) for all texts; a "
        "data.max_length of at most 16 leaves it as it is"
    ]
    assert rotation[0] == before[0] and bool((rotation[1:] < before[1:]).all())


@pytest.mark.slow
def test_a_position_table_is_read_in_windows(start, tmp_path):
    assert main(["train", start("window")]) == 0
    assert (tmp_path / "run" / "report.md").is_file()


@pytest.mark.slow
def test_a_windowed_rotation_keeps_its_base(start, monkeypatch):
    from teacher import live_teacher

    def extended(model, *_):
        if model.config.max_position_embeddings == 16:
            raise AssertionError("the base was changed")

    monkeypatch.setattr(live_teacher, "extend_context", extended)
    assert main(["train", start("window", rotary=True)]) == 0
