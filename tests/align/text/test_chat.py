"""Conversations: each model's own template, contents alone aligned."""

from datetime import date

import pytest
import torch

from align.causality import check_causal
from align.text.chat import ChatRenderer, check_chats, render_chat
from align.text.conversation import Conversation
from align.text.documents import TextSample
from align.tokenizer_align import CausalCharIoUAligner, CharIoUAligner
from align.tokens.batch import encode_batch, encode_chats
from align.tokens.byte_lengths import ByteLengths
from tests.small_tokenizers import outside

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "user: what is 深度? 😀"},
    {"role": "assistant", "content": "assistant"},
]
BLANKS = [
    {"role": "user", "content": "  hi\n"},
    {"role": "assistant", "content": "yes "},
]
CHAT = ["bytes-headers", "bytes-chatml", *outside("llama3", "qwen2.5")]


@pytest.mark.parametrize("name", [*CHAT, "bytes"])
def test_contents_are_found_although_they_repeat_the_template_s_own_words(load, name):
    shown = render_chat(load(name), TALK)
    found = [shown.text[start:end] for start, end in shown.spans]
    assert found == [message["content"] for message in TALK]
    before = shown.text[: shown.spans[2][0]]
    assert name == "bytes" or before.rstrip("\n").endswith(("|>", "assistant"))


def test_a_template_that_trims_says_how_much(load):
    trimmed = render_chat(load("bytes-headers"), BLANKS)
    assert trimmed.trimmed == (2, 0)
    assert [trimmed.text[a:b] for a, b in trimmed.spans] == ["hi", "yes"]
    kept = render_chat(load("bytes-chatml"), BLANKS)
    assert kept.trimmed == (0, 0)
    assert [kept.text[a:b] for a, b in kept.spans] == ["  hi\n", "yes "]


@pytest.mark.parametrize("name", CHAT)
@pytest.mark.parametrize("table", [False, True])
def test_ids_are_those_of_the_model_s_own_rendering(load, name, table):
    tokenizer = load(name)
    lengths = ByteLengths.of(tokenizer) if table else None
    batch = encode_chats(tokenizer, [TALK, BLANKS], byte_lengths=lengths)
    for row, talk in enumerate((TALK, BLANKS)):
        own = tokenizer.apply_chat_template(talk, tokenize=False)
        expected = tokenizer(own, add_special_tokens=False)["input_ids"]
        assert batch.ids[row][batch.mask[row]].tolist() == expected


@pytest.mark.parametrize("name", [*CHAT, "bytes", "metaspace-legacy", "words"])
def test_spans_count_the_joined_contents_and_the_template_holds_none(load, name):
    tokenizer = load(name)
    batch = encode_chats(tokenizer, [TALK, BLANKS])
    assert batch.texts == (
        "Be brief.user: what is 深度? 😀assistant",
        "  hi\nyes ",
    )
    for row, text in enumerate(batch.texts):
        spans = batch.spans[row][batch.has_text[row]]
        assert bool((spans[1:] >= spans[:-1]).all())
        assert int(spans.min()) >= 0 and int(spans.max()) <= len(text)
    if name in ("metaspace-legacy", "llama2"):
        return  # they put a blank before a text, hence cut it otherwise
    alone = encode_batch(tokenizer, [TALK[2]["content"]], add_special_tokens=False)
    held = int(alone.has_text.sum())  # "assistant" is the last content
    offset = len(batch.texts[0]) - len(TALK[2]["content"])
    last = batch.spans[0][batch.has_text[0]][-held:] - offset
    assert last.tolist() == alone.spans[0][alone.has_text[0]].tolist()


def test_two_templates_align_by_content_alone(load):
    student = encode_chats(load("bytes-chatml"), [TALK, BLANKS])
    teacher = encode_chats(load("bytes-headers"), [TALK, BLANKS])
    pieces = [
        [load(name).decode([i]) for i in batch.ids[0].tolist()]
        for name, batch in (("bytes-chatml", student), ("bytes-headers", teacher))
    ]
    found = CharIoUAligner()(student, teacher)
    covered, text = found.covered, student.has_text
    assert torch.equal(covered[0], text[0])
    # the teacher trims: nothing of it stands for the blanks which the student reads,
    # ␣|␣h|i|⏎|y|es|␣
    expected = [False, True, True, False, True, True, False]
    assert covered[1][text[1]].tolist() == expected
    dense = found.dense()[0]
    row = max(i for i, piece in enumerate(pieces[0]) if piece == "assistant")
    col = max(i for i, piece in enumerate(pieces[1]) if piece == "assistant")
    assert dense[row].nonzero().tolist() == [[col]]
    # the template's own "assistant" feeds nobody and is fed by nobody
    header = pieces[0].index("assistant")
    assert header < row and not bool(dense[header].any())
    check_causal(CausalCharIoUAligner()(student, teacher), student, teacher)


def test_a_token_that_joins_template_and_content_holds_only_the_content(load):
    # ChatML's reads the line end of its header and the content's own as one token
    talk = [{"role": "user", "content": "\n\nx"}]
    batch = encode_chats(load("bytes-chatml"), [talk])
    assert batch.spans[0][batch.has_text[0]].tolist() == [[0, 2], [2, 3]]


def test_cutting_keeps_the_front(load):
    whole = encode_chats(load("bytes-chatml"), [TALK])
    cut = encode_chats(load("bytes-chatml"), [TALK], max_length=12)
    assert torch.equal(cut.ids, whole.ids[:, :12])
    assert torch.equal(cut.spans, whole.spans[:, :12])


@pytest.mark.parametrize("name", [*CHAT, "bytes-renumbered"])
def test_conversations_and_texts_share_a_batch(load, name):
    tokenizer = load(name)
    texts = ["A text.", Conversation(TALK), "", Conversation(BLANKS), "Another, longer"]
    batch = encode_batch(tokenizer, texts)
    assert batch.texts == tuple(texts)
    for row, text in enumerate(texts):
        spoken = isinstance(text, Conversation)
        alone = (
            encode_chats(tokenizer, [text.messages])
            if spoken
            else encode_batch(tokenizer, [text])
        )
        mask = batch.mask[row]
        assert batch.ids[row][mask].tolist() == alone.ids[0].tolist()
        assert torch.equal(batch.spans[row][mask], alone.spans[0])
        assert bool((batch.spans[row][~mask].diff(dim=-1) == 0).all())
    only = encode_batch(tokenizer, [Conversation(TALK)])
    assert torch.equal(only.ids, encode_chats(tokenizer, [TALK]).ids)


def test_contents_and_the_mark_after_each_are_what_is_predicted(load):
    tokenizer = load("bytes-chatml")
    batch = encode_batch(tokenizer, [Conversation(TALK), "a text"])
    learnt = [tokenizer.decode([i]) for i in batch.ids[0][batch.predicted[0]].tolist()]
    expected = []
    for message in TALK:
        ids = tokenizer(message["content"])["input_ids"]
        expected += [*(tokenizer.decode([i]) for i in ids), "<|im_end|>"]
    assert learnt == expected
    assert torch.equal(batch.predicted[1], batch.mask[1])
    plain = encode_batch(tokenizer, ["a text"])
    assert plain.predicted is plain.mask


def test_without_a_template_a_prompt_and_its_completion_stand_side_by_side(load):
    pair = Conversation(
        [
            {"role": "user", "content": "The capital is"},
            {"role": "assistant", "content": " Rome."},
        ],
        "",
    )
    batch = encode_batch(load("bytes"), [pair])
    written = encode_batch(load("bytes"), ["The capital is Rome."])
    assert torch.equal(batch.ids, written.ids)
    assert torch.equal(batch.spans, written.spans)
    templated = encode_batch(load("bytes-headers"), [pair])
    assert templated.texts == batch.texts
    assert int(templated.mask.sum()) > int(templated.has_text.sum()) + 8


def test_a_template_that_takes_no_such_conversation_is_found_before_work():
    def first(turns):
        return turns[0]["content"]

    samples = [
        TextSample("text", "d", "a.txt:0"),
        TextSample(Conversation(TALK[:1]), "d", "a.jsonl:1"),
        TextSample(Conversation(TALK), "d", "a.jsonl:2"),
    ]
    check_chats(Templated(first), samples[:2])
    with pytest.raises(
        ValueError, match=r"a\.jsonl:2: messages\[1\].*leaves this turn"
    ):
        check_chats(Templated(first), samples)


class Templated:
    """A tokenizer stand-in that renders by a function of the messages."""

    chat_template = "given"

    def __init__(self, render):
        self.render = render

    def apply_chat_template(self, messages, tokenize):
        assert not tokenize
        return self.render(messages)


def test_what_a_template_changes_is_refused_by_message():
    upper = Templated(lambda turns: "".join(turn["content"].upper() for turn in turns))
    with pytest.raises(ValueError, match=r"messages\[0\].*does not show the content"):
        render_chat(upper, [{"role": "user", "content": "abc"}])
    first = Templated(lambda turns: turns[0]["content"])
    with pytest.raises(ValueError, match=r"messages\[1\].*leaves this turn out"):
        render_chat(first, TALK)
    with pytest.raises(ValueError, match=r"messages\[0\].content is None"):
        render_chat(first, [{"role": "user"}])


def test_conversations_that_differ_in_contents_alone_share_the_template_s_marks():
    """And others do not: neither more turns, nor another role, field or day."""
    filled = []

    def fill(turns):
        filled.append(turns)
        return "".join(
            f"[{turn['role']}{turn.get('name', '')}]{turn['content']}" for turn in turns
        )

    render = ChatRenderer(Templated(fill))
    talks = [
        [{"role": "user", "content": "one"}],
        [{"role": "user", "content": "another, and longer"}],
        [{"role": "system", "content": "one"}],
        [{"role": "user", "name": " Ann", "content": "one"}],
        [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}],
        Conversation([{"role": "user", "content": "three"}], today=date(2024, 5, 6)),
    ]
    for talk in talks:
        assert render(talk) == render_chat(Templated(fill), talk)
    of_render_chat = 2 * len(talks)
    assert len(filled) == of_render_chat + 2 * len(talks) - 1


def test_a_template_s_refusal_is_named(load):
    from jinja2 import TemplateError

    def refuse(turns):
        raise TemplateError("system role not supported")

    with pytest.raises(ValueError, match=r"\(system, user, assistant\): system role"):
        render_chat(Templated(refuse), TALK)
