"""What is not learned of conversations is told, and refused where nothing is left."""

import json

import pytest
from transformers import AutoTokenizer

from align.errors import InputError
from experiments.assemble.data import Encoder, load_data
from experiments.texts.config import DataConfig


def rows(path, sizes):
    answer = {"role": "assistant", "content": "This one, and no other."}
    path.write_text(
        "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"{n}? " * size},
                        answer | {"content": f"{n}: {answer['content']}"},
                    ]
                }
            )
            + "\n"
            for n, size in enumerate(sizes)
        )
    )
    return str(path)


def loaded(zoo, path, **settings):
    tokenizer = AutoTokenizer.from_pretrained(zoo["gpt2-prose"])
    config = DataConfig(train=[path], max_length=64, learn="assistant", **settings)
    return load_data(config, Encoder(tokenizer, 64, learn_end=True), seed=0)


def test_conversations_cut_before_their_answers_are_told_of(tiny_zoo, tmp_path):
    data = loaded(tiny_zoo, rows(tmp_path / "talk.jsonl", [1, 2, 90, 1, 2]))
    assert len(data.train) + len(data.eval) == 4
    (warning,) = data.warnings
    assert "1 of 5 conversations are cut before the first turn that is" in warning
    assert all(sample.text.learned == (1,) for sample in data.train)
    with pytest.raises(InputError, match=r"2 of 2 conversations are cut .* raise data"):
        loaded(tiny_zoo, rows(tmp_path / "long.jsonl", [90, 90]))


def test_settings_of_conversations_and_weights_that_no_text_has_are_told(
    tiny_zoo, tmp_path
):
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(f'{{"text": "line {n} of it"}}\n' for n in range(9)))
    data = loaded(tiny_zoo, str(plain), date="2026-11-28", weight_field="wieght")
    learn, day, weight = data.warnings
    assert "data.learn=assistant changes nothing: no text to learn from is a" in learn
    assert day.startswith("data.date=2026-11-28 changes nothing")
    assert "data.weight_field=wieght changes nothing: every text weighs 1" in weight
    assert loaded(tiny_zoo, str(plain)).warnings == (learn,)
    talk = rows(tmp_path / "talk.jsonl", [1, 2, 1])
    assert not loaded(tiny_zoo, talk, date="2026-11-28").warnings


def test_plain_conversations_have_no_turns_to_choose_among():
    with pytest.raises(ValueError, match=r"data\.learn is completion.*chats=template"):
        DataConfig(learn="completion", chats="plain")
