from functools import cache
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from align.tokens.batch import TokenBatch, encode_batch
from tests.small_tokenizers import EVERY, KINDS, outside, small


def pieces(tokenizer, batch, row=0):
    names = tokenizer.convert_ids_to_tokens(batch.ids[row][batch.mask[row]].tolist())
    return list(zip(names, map(tuple, batch.spans[row].tolist()), strict=False))


@pytest.mark.parametrize("name", EVERY)
def test_spans_of_every_family_stay_inside_their_text_and_never_go_back(
    load, real_texts, name
):
    batch = encode_batch(load(name), real_texts)
    assert batch.texts == tuple(real_texts)
    for row, text in enumerate(real_texts):
        spans = batch.spans[row][batch.has_text[row]]
        if len(spans):
            assert int(spans.min()) >= 0 and int(spans.max()) <= len(text)
            assert bool((spans[1:] >= spans[:-1]).all())  # starts and ends ascend
    assert bool((batch.spans[~batch.mask].diff(dim=-1) == 0).all())  # padding


@pytest.mark.parametrize(
    "name",
    [
        *(kind for kind in KINDS if kind.startswith(("bytes", "metaspace"))),
        *outside("gpt2", "llama3", "llama2", "mistral-7b-v0.1"),
    ],
)
def test_tokenizers_that_give_the_text_back_leave_no_character_unclaimed(
    load, real_texts, name
):
    batch = encode_batch(load(name), real_texts)
    for row, text in enumerate(real_texts):
        claimed = set()
        for start, end in batch.spans[row].tolist():
            claimed |= set(range(start, end))
        assert claimed == set(range(len(text)))


def test_crlf_counts_as_two_characters(load):
    batch = encode_batch(load("bytes"), ["a\r\nb"])
    assert batch.spans[0].tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_byte_tokens_of_one_character_share_its_span(load):
    batch = encode_batch(load("bytes"), ["x饕y"])
    assert batch.spans[0].tolist() == [[0, 1], [1, 2], [1, 2], [1, 2], [2, 3]]
    # only the third byte completes the character
    assert batch.complete_until[0].tolist() == [1, 1, 1, 2, 3]
    assert batch.touched_until[0].tolist() == [1, 2, 2, 2, 3]


def test_a_byte_token_that_spans_two_characters_completes_only_the_first(load):
    batch = encode_batch(load("bytes"), ["a 😀"])
    assert pieces(load("bytes"), batch)[1] == ("ĠðŁ", (1, 3))  # blank and two bytes
    assert batch.complete_until[0].tolist() == [1, 2, 2, 3]


def test_a_bare_marker_leaves_its_word_to_the_next_token(load):
    # SentencePiece reports ▁ with the span of the word's first character
    left = pieces(load("unigram-left"), encode_batch(load("unigram-left"), ["深度"]))
    assert left[:2] == [("▁", (0, 0)), ("深度", (0, 2))]
    end = pieces(load("unigram-end"), encode_batch(load("unigram-end"), ["x x"]))
    assert end[:4] == [
        ("▁", (0, 0)),
        ("x", (0, 1)),
        ("▁", (2, 2)),
        ("x", (2, 3)),
    ]


def test_a_marker_that_stands_for_no_blank_of_the_text_has_read_nothing(load):
    # after a special token Llama 2 reads a blank more; ▁a holds the one in the text
    found = pieces(
        load("metaspace-legacy"), encode_batch(load("metaspace-legacy"), ["<unk> a"])
    )
    assert found[-2:] == [("▁", (5, 5)), ("▁a", (5, 7))]
    found = pieces(
        load("metaspace-legacy"), encode_batch(load("metaspace-legacy"), [" a"])
    )
    assert found[-2:] == [("▁", (0, 0)), ("▁a", (0, 2))]


def test_trimmed_blanks_are_given_back():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"Ġ": 0, "a": 1, "Ġa": 2, "ĠĠ": 3, "Ċ": 4}
    merges = [("Ġ", "a"), ("Ġ", "Ġ")]
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    text = "a   a\n"
    raw = backend.encode(text)
    assert raw.tokens == ["a", "ĠĠ", "Ġa", "Ċ"]
    assert raw.offsets == [(0, 1), (3, 3), (4, 5), (5, 6)]
    batch = encode_batch(tokenizer, ["", text, text])
    assert batch.spans[1].tolist() == [[0, 1], [1, 3], [3, 5], [5, 6]]
    assert torch.equal(batch.spans[1], batch.spans[2])


def test_no_character_beyond_the_table_is_a_blank():
    assert not any(chr(code).isspace() for code in range(0x3001, 0x110000))


def test_a_composed_accent_belongs_to_its_letter(load):
    # NFC turns e and U+0301 into one character; the library drops the accent's span
    found = pieces(
        load("bytes-chatml"), encode_batch(load("bytes-chatml"), ["cafe\u0301 x"])
    )
    assert found[3] == ("Ã©", (3, 5))  # c|a|f|é
    assert encode_batch(load("bytes-chatml"), ["cafe\u0301"]).touched_until[0, -1] == 5


@pytest.mark.parametrize("name", ["bytes-headers", "words-lower", "unigram-end"])
def test_truncation_is_on_the_right_and_keeps_special_tokens(load, name):
    tokenizer = load(name)
    whole = encode_batch(tokenizer, ["one two three four five"])
    cut = encode_batch(tokenizer, ["one two three four five", "one"], max_length=4)
    expected = tokenizer("one two three four five", max_length=4, truncation=True)
    assert cut.ids[0].tolist() == expected["input_ids"]
    assert cut.spans[0, 1].tolist() == whole.spans[0, 1].tolist()


def test_padding_is_on_the_right_even_for_a_tokenizer_that_pads_left(load):
    tokenizer = load("unigram-left")
    assert tokenizer.padding_side == "left"
    batch = encode_batch(tokenizer, ["a long sentence here", "a"])
    assert batch.mask[1].tolist() == sorted(batch.mask[1].tolist(), reverse=True)
    alone = encode_batch(tokenizer, ["a"])
    assert torch.equal(batch.ids[1][batch.mask[1]], alone.ids[0])
    assert set(batch.ids[1][~batch.mask[1]].tolist()) == {tokenizer.pad_token_id}


def test_ids_equal_the_library_s_own_whatever_was_set_on_the_tokenizer(
    load, real_texts
):
    tokenizer = load("bytes-renumbered")
    expected = [tokenizer(text)["input_ids"] for text in real_texts]
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=2)  # sticks
    batch = encode_batch(tokenizer, real_texts)
    got = [ids[mask].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)]
    assert got == expected
    without = encode_batch(tokenizer, real_texts, add_special_tokens=False)
    assert torch.equal(without.mask.sum(1) + 1, batch.mask.sum(1))


def test_special_tokens_hold_no_text_but_literal_ones_do(load):
    batch = encode_batch(load("bytes-renumbered"), ["a <unk> b"])
    assert pieces(load("bytes-renumbered"), batch) == [
        ("</s>", (0, 0)),
        ("a", (0, 1)),
        ("Ġ", (1, 2)),
        ("<unk>", (2, 7)),
        ("Ġb", (7, 9)),
    ]
    assert batch.has_text[0].tolist() == [False, True, True, True, True]


def test_empty_texts_and_empty_batches_are_batches(load):
    batch = encode_batch(load("bytes"), ["", ""])
    assert batch.ids.shape == (2, 0) and batch.complete_until.shape == (2, 0)
    assert batch.touched_until.shape == (2, 0)
    assert encode_batch(load("bytes"), []).ids.shape == (0, 0)
    assert encode_batch(load("metaspace-legacy"), [""]).has_text.tolist() == [[False]]


def test_mistakes_are_named(load):
    with pytest.raises(ValueError, match="SimpleNamespace is not a fast tokenizer"):
        encode_batch(SimpleNamespace(is_fast=False), ["a"])
    with pytest.raises(TypeError, match="texts is one string"):
        encode_batch(load("bytes"), "a")
    with pytest.raises(TypeError, match=r"texts\[1\] is int"):
        encode_batch(load("bytes"), ["a", 3])
    with pytest.raises(ValueError, match=r"texts\[1\] holds '\\ud83d' at character 2"):
        encode_batch(load("bytes"), ["a", "b \ud83d c"])
    with pytest.raises(ValueError, match=r"max_length 1 leaves no room for the 2"):
        encode_batch(load("words-lower"), ["a"], max_length=1)
    with pytest.raises(ValueError, match=r"TokenBatch\.spans has shape"):
        ids = torch.zeros(1, 2, dtype=torch.int64)
        TokenBatch(ids, ids.bool(), torch.zeros(1, 3, 2), ("a",))
    with pytest.raises(ValueError, match=r"TokenBatch\.texts holds 2 texts"):
        TokenBatch(ids, ids.bool(), torch.zeros(1, 2, 2), ("a", "b"))


TRIMMING = ["bytes-nfc", "bytes-split-after", "bytes-blank-first"]
shreds = st.lists(
    st.sampled_from([" ", "  ", "a", " The", "\n", "深", "é", "<mask>", "<s>", "\t"]),
    max_size=9,
).map("".join)


@cache
def honest(name):
    """The truth: the same tokenizer, told to leave none out."""
    made = small(name)
    made.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


@pytest.mark.parametrize("name", TRIMMING)
@given(texts=st.lists(shreds, min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_blanks_that_offsets_leave_out_are_given_back(load, name, texts):
    expected = encode_batch(honest(name), texts, add_special_tokens=False)
    got = encode_batch(load(name), texts, add_special_tokens=False)
    assert torch.equal(got.ids, expected.ids)
    assert torch.equal(got.spans, expected.spans)


def test_trailing_blanks_of_a_token_are_its_own(load):
    tokenizer = load("bytes-split-after")
    assert tokenizer.backend_tokenizer.encode("a\n   ").offsets[-1] == (1, 2)
    assert encode_batch(tokenizer, ["a\n   "]).spans[0].tolist() == [[0, 1], [1, 5]]
