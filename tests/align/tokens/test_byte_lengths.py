from dataclasses import replace

import pytest
import torch

from align.tokens.batch import encode_batch
from align.tokens.byte_lengths import ByteLengths
from tests.small_tokenizers import EVERY, KINDS, outside

BYTE_LEVEL = [
    *(kind for kind in KINDS if kind.startswith("bytes") and kind != "bytes-lower"),
    *outside("gpt2", "opt", "gpt-neox", "llama3", "qwen2.5", "rwkv-world"),
]
BYTE_FALLBACK = [
    *(kind for kind in KINDS if kind.startswith("metaspace")),
    *outside("llama2", "mistral-7b-v0.1"),
]
OTHERS = [name for name in EVERY if name not in BYTE_LEVEL + BYTE_FALLBACK]


@pytest.mark.parametrize("name", BYTE_LEVEL + BYTE_FALLBACK)
def test_cumulative_byte_lengths_give_the_very_spans_of_the_offsets(
    load, table, real_texts, name
):
    tokenizer, lengths = load(name), table(name)
    tokenizer("reset")  # whatever another test left set
    _, fits = lengths.encode(tokenizer, real_texts)
    composed = ["\u0301" in text for text in real_texts]
    if not lengths.normalizes:
        composed = [False] * len(real_texts)
    assert (~fits).tolist() == composed  # the fast path is taken for all the others
    slow = encode_batch(tokenizer, real_texts, max_length=300)
    fast = encode_batch(tokenizer, real_texts, max_length=300, byte_lengths=lengths)
    for field in ("ids", "mask", "spans"):
        assert torch.equal(getattr(fast, field), getattr(slow, field)), field


BLANKS = [
    "  leading",
    " one",
    "   ",
    "  two  ",
    "x \n  \n ",
    "深  度 ",
    "\tq ",
    " 饕饕 ",
    "    four\n        eight",
    "a <mask>b<mask> c  <mask>深<mask>",
    "  <mask>  x",
    "<s> a<s>b<s>  c",
    "<|end|> a  <|end|>b",
]


@pytest.mark.parametrize("name", BYTE_LEVEL + BYTE_FALLBACK)
def test_blanks_at_both_ends_and_around_special_tokens_are_held(load, table, name):
    tokenizer = load(name)
    fast = encode_batch(tokenizer, BLANKS, byte_lengths=table(name))
    slow = encode_batch(tokenizer, BLANKS)
    assert torch.equal(fast.ids, slow.ids)
    assert torch.equal(fast.spans, slow.spans)
    for row, text in enumerate(BLANKS):
        held = torch.zeros(len(text), dtype=torch.bool)
        for start, end in fast.spans[row].tolist():
            held[start:end] = True
        assert held.all(), text


def test_a_blank_is_put_before_text_that_has_none(load):
    tokenizer = load("bytes-blank-first")
    table = ByteLengths.of(tokenizer)
    assert (table.prefix, table.spares) == ("always", True)
    texts = ["leading", "  leading", "<s>a<s> a", " 饕", "饕"]
    assert table.encode(tokenizer, texts)[1].all()
    batch = encode_batch(tokenizer, texts, None, False, table)
    spans = [
        row[held].tolist() for row, held in zip(batch.spans, batch.mask, strict=True)
    ]
    # Ġl|e|ad|ing: the first blank is in no text; Ġ|Ġl|e|ad|ing: both are
    assert spans[0] == [[0, 1], [1, 2], [2, 4], [4, 7]]
    assert spans[1] == [[0, 1], [1, 3], [3, 4], [4, 6], [6, 9]]
    assert spans[2] == [[0, 3], [3, 4], [4, 7], [7, 9]]  # <s>|Ġa|<s>|Ġa
    assert spans[3] == [[0, 1], [1, 2], [1, 2], [1, 2]]  # Ġ and three bytes
    assert spans[4] == [[0, 0], [0, 1], [0, 1], [0, 1]]
    assert torch.equal(batch.spans, encode_batch(tokenizer, texts, None, False).spans)


@pytest.mark.parametrize("name", OTHERS)
def test_vocabularies_whose_lengths_do_not_follow_from_ids_have_no_table(table, name):
    assert table(name) is None


def test_text_that_the_normaliser_would_change_falls_back_to_offsets_alone(load):
    tokenizer = load("bytes-chatml")
    table = ByteLengths.of(tokenizer)
    texts = ["one", "cafe\u0301", "深 two"]
    assert table.encode(tokenizer, texts)[1].tolist() == [True, False, True]
    fast = encode_batch(tokenizer, texts, byte_lengths=table)
    assert torch.equal(fast.spans, encode_batch(tokenizer, texts).spans)
    assert torch.equal(fast.ids, encode_batch(tokenizer, texts).ids)


def test_settings_of_an_earlier_call_do_not_cut_or_pad(load):
    tokenizer = load("bytes")
    table = ByteLengths.of(tokenizer)
    for lengths in (table, None):
        tokenizer(["one two three"], truncation=True, max_length=2)
        assert tokenizer.backend_tokenizer.truncation is not None
        batch = encode_batch(tokenizer, ["one two three"], byte_lengths=lengths)
        assert batch.ids.shape == (1, 8)  # on|e| t|w|o| th|re|e


def test_lengths_that_do_not_add_up_to_the_text_are_noticed(load):
    tokenizer = load("bytes")
    table = ByteLengths.of(tokenizer)
    wrong = table.lengths.copy()
    wrong[tokenizer.convert_tokens_to_ids("on")] += 1
    table = replace(table, lengths=wrong)
    texts = ["one two", "深 two", ""]
    assert table.encode(tokenizer, texts)[1].tolist() == [False, True, True]
    batch = encode_batch(tokenizer, texts, byte_lengths=table)
    assert batch.spans[0, :3].tolist() == [[0, 2], [2, 3], [3, 5]]
    assert torch.equal(batch.spans, encode_batch(tokenizer, texts).spans)


def test_the_blank_which_llama_puts_before_a_text_holds_no_character(load):
    # pieces: ▁ | ▁a | <unk> | ▁b | <unk> | ▁ | ▁c
    tokenizer = load("metaspace-legacy")
    table = ByteLengths.of(tokenizer)
    assert table.prefix == "always"
    batch = encode_batch(tokenizer, [" a<unk>b<unk> c"], None, False, table)
    expected = [[0, 0], [0, 2], [2, 7], [7, 8], [8, 13], [13, 13], [13, 15]]
    assert batch.spans[0].tolist() == expected


def test_a_written_marker_is_not_taken_for_a_blank(load):
    tokenizer = load("metaspace-legacy")
    table = ByteLengths.of(tokenizer)
    assert table.encode(tokenizer, ["a▁b", "a b"])[1].tolist() == [False, True]
    fast = encode_batch(tokenizer, ["a▁b"], None, False, table)
    assert fast.spans[0].tolist() == [[0, 1], [1, 3]]


def with_fallback(scheme, held=256):
    """A Metaspace vocabulary with so many of the pieces that stand for bytes."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["▁", "a", "b", "▁a", "▁b"] + [f"<0x{byte:02X}>" for byte in range(held)]
    vocabulary = {piece: id_ for id_, piece in enumerate(pieces)}
    model = models.BPE(vocabulary, [("▁", "a"), ("▁", "b")], byte_fallback=True)
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split=False)
    backend.add_special_tokens([AddedToken("<x>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_a_byte_without_a_piece_leaves_no_table():
    assert ByteLengths.of(with_fallback("always", held=255)) is None


@pytest.mark.parametrize(
    ("scheme", "prefix"), [("always", "always"), ("first", "first"), ("never", "none")]
)
def test_metaspace_vocabularies_with_byte_fallback_follow_their_prefix(scheme, prefix):
    tokenizer = with_fallback(scheme)
    table = ByteLengths.of(tokenizer)
    assert table.prefix == prefix
    texts = ["a b", "b<x>a", "深a", "<x>b", ""]
    assert table.encode(tokenizer, texts)[1].all()
    fast = encode_batch(tokenizer, texts, byte_lengths=table)
    slow = encode_batch(tokenizer, texts)
    assert torch.equal(fast.spans, slow.spans) and torch.equal(fast.ids, slow.ids)
