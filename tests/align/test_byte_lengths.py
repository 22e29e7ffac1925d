import pytest
import torch

from align.byte_lengths import ByteLengths
from align.tokens import encode_batch

BYTE_LEVEL = ["gpt2", "opt", "gpt-neox", "llama3", "qwen2.5", "rwkv-world"]
OTHERS = ["llama2", "chatglm-6b", "t5-small", "bert-base-uncased"]


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_cumulative_byte_lengths_give_the_very_spans_of_the_offsets(
    load, real_texts, name
):
    tokenizer = load(name)
    table = ByteLengths.of(tokenizer)
    nfc = [text for text in real_texts if "\u0301" not in text]
    tokenizer(["reset"])  # whatever another test left set
    assert table.encode(tokenizer, nfc) is not None  # the fast path is taken
    slow = encode_batch(tokenizer, nfc, max_length=300)
    fast = encode_batch(tokenizer, nfc, max_length=300, byte_lengths=table)
    for field in ("ids", "mask", "spans"):
        assert torch.equal(getattr(fast, field), getattr(slow, field)), field


@pytest.mark.parametrize("name", OTHERS)
def test_vocabularies_that_are_not_byte_level_have_no_table(load, name):
    assert ByteLengths.of(load(name)) is None


def test_text_that_the_normaliser_would_change_falls_back_to_offsets(load):
    tokenizer = load("qwen2.5")
    table = ByteLengths.of(tokenizer)
    assert table.encode(tokenizer, ["cafe\u0301"]) is None
    fast = encode_batch(tokenizer, ["cafe\u0301"], byte_lengths=table)
    assert torch.equal(fast.spans, encode_batch(tokenizer, ["cafe\u0301"]).spans)


def test_a_tokenizer_left_cutting_or_padding_falls_back_to_offsets(load):
    tokenizer = load("gpt2")
    table = ByteLengths.of(tokenizer)
    tokenizer(["one two three"], truncation=True, max_length=2)
    assert tokenizer.backend_tokenizer.truncation is not None
    batch = encode_batch(tokenizer, ["one two three"], byte_lengths=table)
    assert batch.ids.shape == (1, 3)


def test_ids_that_do_not_spell_the_text_are_noticed(load):
    tokenizer = load("gpt2")
    table = ByteLengths.of(tokenizer)
    ids = encode_batch(tokenizer, ["one two"]).ids[0].numpy()
    assert table.spans(ids, "one two").tolist() == [[0, 3], [3, 7]]
    assert table.spans(ids, "one twos") is None
