"""A GGUF file's name for how text is split, and the models' own way of it."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from align.errors import InputError
from teacher.conversion.splitting import (
    KNOWN_SPLITTING,
    splitting_of,
    without_first_blank,
)
from tests.small_tokenizers import described, outside


def pieces(name, text):
    return [piece for piece, _ in splitting_of(name).pre_tokenize_str(text)]


def test_digits_and_blanks_are_split_as_each_model_was_trained():
    text = "a  1234"
    assert pieces("gpt-2", text) == ["a", "Ġ", "Ġ1234"]
    assert pieces("smollm", text) == ["a", "ĠĠ", "1", "2", "3", "4"]
    assert pieces("llama-bpe", text) == ["a", "Ġ", "Ġ", "123", "4"]
    assert pieces("qwen2", text) == ["a", "Ġ", "Ġ", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("name", "folder"),
    [("llama-bpe", "llama3"), ("qwen2", "qwen2.5"), ("gpt-2", "gpt2")],
)
def test_it_is_the_splitting_of_the_models_own_file(name, folder):
    if folder not in outside():
        pytest.skip(f"{folder}'s tokenizer is not at hand")
    theirs = described(folder).pre_tokenizer
    for text in (
        "Don't I'LL  12345,6 x\n\n  y\tz",
        "naïve 深度学习 🙂  end  ",
        json.dumps({"k": [1, 22, 333]}, indent=4),
    ):
        theirs_now = theirs.pre_tokenize_str(text)
        assert splitting_of(name).pre_tokenize_str(text) == theirs_now


def test_another_name_is_refused_with_what_to_do():
    with pytest.raises(InputError, match=r"'deepseek-llm'.*smollm.*--tokenizer"):
        splitting_of("deepseek-llm")
    assert len(set(KNOWN_SPLITTING)) == len(KNOWN_SPLITTING)


BLANK = "\u2581"


@pytest.mark.parametrize("by", ["pre-tokenizer", "normalizer"])
def test_without_a_first_blank_a_text_is_read_and_written_as_it_is(by):
    words = [BLANK, "a", BLANK + "a"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(BLANK, "a")]))
    if by == "pre-tokenizer":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="first", split=False
        )
    else:
        steps = [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
        tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    assert tokenizer.encode("a a").tokens == [BLANK + "a", BLANK + "a"]
    described = json.loads(tokenizer.to_str())
    without_first_blank(described)
    bare = Tokenizer.from_str(json.dumps(described))
    assert bare.encode("a a").tokens == ["a", BLANK + "a"]
    for text in ("a a", " a"):
        assert bare.decode(bare.encode(text).ids) == text
