import pytest

from align.tokens.batch import encode_batch
from align.tokens.lost_text import lost_text
from tests.small_tokenizers import KINDS, outside

CHANGE = ("bytes-nfc", "bytes-chatml", "bytes-lower")
"""Normalise, hence do not give every text back."""
TEXTS = ["An É, 深：饕  x\n", "cafe\u0301 <unk> a\x00b"]


def lost(tokenizer, texts=TEXTS, **settings):
    return lost_text(tokenizer, encode_batch(tokenizer, texts, **settings))


@pytest.mark.parametrize(
    "name",
    [
        *(k for k in KINDS if k.startswith(("bytes", "metaspace")) and k not in CHANGE),
        *outside("gpt2", "opt", "llama2", "llama3", "mistral-7b-v0.1", "rwkv-world"),
    ],
)
def test_tokenizers_that_give_the_text_back_lose_nothing(load, real_texts, name):
    found = lost(load(name), real_texts)
    assert found.share == 0 and found.blanks == 0
    assert str(found) == f"nothing lost of {sum(map(len, real_texts)):,} characters"


def test_a_unigram_vocabulary_tells_which_characters_it_does_not_know(load):
    # it knows neither 深 nor 饕, reads ： as : and leaves blanks out
    found = lost(load("unigram-end"), ["An é, 深：饕  x\n"])
    assert (found.unknown, found.rewritten, found.dropped) == (2, 1, 0)
    assert found.blanks == 4  # before é, 深 and x (two)
    assert "深 unknown" in found.examples and "： as :" in found.examples
    assert found.characters == 12  # the line end is beyond the last token


def test_lower_casing_and_lost_accents_are_rewriting(load):
    found = lost(load("words-lower"), ["É cafe\u0301"])
    # É as e, and e with its accent as e: one character and two
    assert (found.rewritten, found.unknown, found.blanks) == (3, 0, 1)
    assert set(found.examples) == {"É as e", "e\u0301 as e"}
    assert found.share == pytest.approx(3 / 7)


def test_a_capital_that_makes_a_word_unknown_costs_the_word(load):
    found = lost(load("words"), ["Hello 深"])
    assert (found.characters, found.unknown, found.blanks) == (7, 5, 1)


def test_a_written_unknown_token_is_not_lost(load):
    assert lost(load("bytes-renumbered"), ["a <unk> b"]).share == 0


def test_characters_that_vanish_are_dropped(load):
    found = lost(load("words-lower"), ["a\x00b"])
    assert (found.dropped, found.unknown) == (1, 0)
    assert "1 dropped" in str(found)
    assert found.examples == (r"'\x00' dropped",)


def test_what_is_changed_is_still_told(load):
    found = lost(load("unigram-end"), ["深： x"])
    assert (found.unknown, found.rewritten, found.characters) == (1, 1, 4)
    assert (found.share, found.untold) == (0.5, 0.25)


def test_composition_is_rewriting_for_a_normalising_byte_level_vocabulary(load):
    found = lost(load("bytes-chatml"), ["cafe\u0301"])
    assert (found.rewritten, found.dropped) == (2, 0)
    assert found.examples == ("e\u0301 as \u00e9",)


def test_text_beyond_a_cut_is_not_counted(load):
    found = lost(load("unigram-end"), ["one two 深深深深"], max_length=5)
    assert found.unknown == 0 and found.characters == 7
