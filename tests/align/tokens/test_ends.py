"""Where the end of a text is written and learned, and where it is not."""

from copy import copy

import pytest
import torch

from align.text.conversation import Conversation
from align.text.fragment import Fragment
from align.tokenizer_align import (
    CausalCharIoUAligner,
    CharIoUAligner,
    ChunkEndAligner,
    LastTokenAligner,
)
from align.tokens.batch import encode_batch, end_id
from tests.small_tokenizers import small

ENDED = ["bytes", "bytes-renumbered", "metaspace-legacy", "unigram-end", "bytes-chatml"]
"""Tokenizers with an end-of-text token; ``unigram-end`` writes it after each encode."""


def learnt(name, texts, **settings):
    """The tokens of each text that are learned: the first of all has none before it."""
    tokenizer = small(name)
    batch = encode_batch(tokenizer, texts, learn_end=True, **settings)
    chosen = batch.predicted & batch.mask
    chosen[:, :1] = False
    return [
        ids[kept].tolist() for ids, kept in zip(batch.ids, chosen, strict=True)
    ], batch


@pytest.mark.parametrize("name", ENDED)
def test_the_end_is_learned_once_where_a_text_ends_and_nowhere_else(name):
    end = end_id(small(name))
    texts = ["The outcome tells.", Fragment("The outcome te"), "A word", ""]
    ids, batch = learnt(name, texts)
    assert [row.count(end) for row in ids] == [1, 0, 1, 0]
    assert ids[0][-1] == ids[2][-1] == end
    last = int(batch.mask[0].sum()) - 1
    assert batch.spans[0, last].tolist() == [18, 18]  # it holds no text
    assert not bool(batch.has_text[0, last])
    never = encode_batch(small(name), texts, learn_end=False)
    assert not bool(((never.ids == end) & never.mask)[:, 1:].any())
    for row, text in enumerate(texts):
        kept = never.mask[row].sum()
        assert batch.ids[row, :kept].tolist() == never.ids[row, :kept].tolist()
        assert batch.texts[row] is text


@pytest.mark.parametrize("name", ENDED)
def test_a_text_that_is_cut_here_does_not_end_here(name):
    end, text = end_id(small(name)), "The outcome tells which teacher helps."
    whole = int(encode_batch(small(name), [text], learn_end=True).mask.sum())
    for most in (whole, whole - 1, whole - 3):
        ids, _ = learnt(name, [text], max_length=most)
        assert len(ids[0]) <= most
        assert (end in ids[0]) == (most == whole)


def test_a_text_that_says_its_end_itself_is_not_ended_twice():
    ids, _ = learnt("metaspace-legacy", ["A word</s>"])
    assert ids[0].count(end_id(small("metaspace-legacy"))) == 1


def test_a_tokenizer_without_an_end_writes_none():
    assert end_id(small("words")) is None
    texts = ["One word", Fragment("One wo")]
    plain = encode_batch(small("words"), texts)
    assert torch.equal(
        plain.ids, encode_batch(small("words"), texts, learn_end=True).ids
    )


@pytest.mark.parametrize("joint", ["", None])
def test_a_conversation_without_a_template_ends_after_its_last_content(joint):
    turns = [{"role": "user", "content": "2 + 2?"}, {"role": "a", "content": " Four."}]
    talk = Conversation(turns, joint)
    ids, batch = learnt("metaspace-legacy", [talk, talk.cut(8)])
    end = end_id(small("metaspace-legacy"))
    assert ids[0][-1] == end
    assert ids[0].count(end) == 1
    assert end not in ids[1]
    assert not bool((batch.ids[1][batch.mask[1]] == end).any())


def test_a_template_that_ends_turns_is_left_to_do_so():
    talk = Conversation([{"role": "user", "content": "2 + 2?"}])
    whole = encode_batch(small("bytes-chatml"), [talk])
    assert torch.equal(whole.ids, learnt("bytes-chatml", [talk])[1].ids)
    assert learnt("bytes-chatml", [talk])[0][0][-1] == end_id(small("bytes-chatml"))


def test_a_template_without_a_token_of_its_own_behind_the_last_content_is_ended():
    tokenizer = copy(small("metaspace-legacy"))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    turns = [{"role": "user", "content": "2 + 2?"}, {"role": "bot", "content": "Four"}]
    talk, end = Conversation(turns), end_id(tokenizer)
    batch = encode_batch(tokenizer, [talk, talk.cut(8)], learn_end=True)
    ids = [ids[mask].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)]
    assert ids[0][-1] == end
    assert ids[0].count(end) == 1
    assert bool((batch.predicted & (batch.ids == end) & batch.mask)[0].any())
    assert tokenizer.decode(ids[0]).endswith("Four</s>")
    assert tokenizer.decode(ids[1]).endswith("bot: Fo")
    assert not bool((batch.ids[1][batch.mask[1]] == end).any())
    short = encode_batch(tokenizer, [talk], max_length=len(ids[0]) - 1, learn_end=True)
    assert short.ids[0].tolist() == ids[0][:-1]


@pytest.mark.parametrize(
    "aligner", [CharIoUAligner, CausalCharIoUAligner, LastTokenAligner, ChunkEndAligner]
)
def test_no_teacher_covers_the_end(aligner):
    texts = ["The outcome tells.", "A word"]
    student = encode_batch(small("metaspace-legacy"), texts, learn_end=True)
    end = (student.ids == end_id(small("metaspace-legacy"))) & student.mask
    assert end.sum(1).tolist() == [1, 1]
    for name in ("bytes", "unigram-end", "metaspace-legacy", "words"):
        alignment = aligner()(student, encode_batch(small(name), texts))
        assert not bool(alignment.covered[end].any())


def test_bits_per_character_do_not_count_the_end():
    from student.evaluate import bits_and_chars

    texts = ["The outcome tells.", "A word"]
    found = []
    torch.manual_seed(0)
    logits = torch.randn(2, 40, len(small("metaspace-legacy")))
    for learn_end in (True, False):
        batch = encode_batch(small("metaspace-legacy"), texts, learn_end=learn_end)
        found.append(bits_and_chars(logits[:, : batch.ids.shape[1]], batch))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
