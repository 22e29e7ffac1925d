"""Of a conversation the turns that are asked for are learned, and nothing else."""

import pickle
from datetime import date

import pytest
import torch
from transformers import AutoTokenizer

from align.text.chat_rows import RowError
from align.text.conversation import Conversation
from align.text.documents import TextSample
from align.text.records import text_of
from align.tokens.batch import encode_batch
from align.tokens.cut import Cutter, Reader
from student.evaluate import bits_and_chars
from teacher.own_loss import teacher_bits_per_char

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which word?"},
    {"role": "assistant", "content": "This one."},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "That one, too."},
]
MARKED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}",
    ["This one.", "That one, too."],
)


@pytest.fixture(scope="module")
def tokenizer(tiny_zoo):
    return AutoTokenizer.from_pretrained(tiny_zoo["gpt2-prose"])


def learned_text(tokenizer, talk, template):
    tokenizer.chat_template = template
    batch = encode_batch(tokenizer, [talk], learn_end=True)
    kept = batch.predicted[0]
    spans = batch.spans[0][kept & batch.has_text[0]].tolist()
    ends = int((kept & ~batch.has_text[0]).sum())
    return [str(talk)[a:b] for a, b in spans], ends, batch


@pytest.mark.parametrize(
    ("learn", "said"),
    [
        ("all", [m["content"] for m in TALK]),
        ("assistant", ["This one.", "That one, too."]),
        ("completion", ["That one, too."]),
    ],
)
@pytest.mark.parametrize("template", [MARKED[0], None], ids=["template", "paragraphs"])
def test_tokens_of_learned_turns_and_of_their_ends_are_predicted(
    tokenizer, learn, said, template
):
    talk = Conversation(TALK).learning(learn)
    pieces, ends, _ = learned_text(tokenizer, talk, template)
    assert "".join(pieces) == "".join(said)
    assert ends == len(said)  # a mark or a paragraph's end behind each, or the text's
    turns = {"messages": TALK}
    read = text_of(turns, "text", "template", "here", learn=learn)
    assert read.learned_spans == talk.learned_spans


def test_measured_are_the_learned_characters_alone(tokenizer):
    talk = Conversation(TALK).learning("assistant")
    _, _, batch = learned_text(tokenizer, talk, MARKED[0])
    logits = torch.zeros(1, batch.ids.shape[1], len(tokenizer))
    bits, chars = bits_and_chars(logits, batch)
    tokens = int((batch.predicted & batch.has_text).sum())
    assert int(chars) == len("This one.") + len("That one, too.")
    each = torch.log2(torch.tensor(float(len(tokenizer))))
    torch.testing.assert_close(float(bits), tokens * float(each))
    assert float(teacher_bits_per_char(logits, batch)) == pytest.approx(
        float(bits) / int(chars)
    )


def test_what_is_learned_survives_cuts_days_and_processes():
    talk = Conversation(TALK).learning("assistant").on(date(2026, 1, 2))
    assert pickle.loads(pickle.dumps(talk)).learned == talk.learned == (2, 4)
    cut = talk.cut(len("Be brief.Which word?This"))
    assert cut.learned_spans == [(20, 24)] and cut.teaches
    assert not talk.cut(20).teaches and Conversation(TALK).cut(20).teaches


def test_conversations_cut_before_their_first_answer_are_left_out(tokenizer):
    tokenizer.chat_template = None
    long = [{"role": "user", "content": "Which word? " * 40}, TALK[2]]
    samples = [
        TextSample(Conversation(turns).learning("assistant"), "chat", str(n))
        for n, turns in enumerate([long, TALK])
    ]
    reader = Reader("student", lambda texts: encode_batch(tokenizer, texts), 64)
    cutter = Cutter([reader])
    assert [piece.id for piece in cutter.pieces(samples)] == ["1"]
    assert (cutter.tally.unlearned, cutter.tally.conversations) == (1, 1)


@pytest.mark.parametrize(
    ("learn", "turns", "why"),
    [
        ("assistant", TALK[:2], r"\(system, user\), no assistant says anything"),
        ("completion", TALK[:4], "the last turn is no answer of the assistant"),
        ("assistant", [{"role": "assistant", "content": " "}], r"data\.learn=assist"),
    ],
)
def test_rows_without_anything_to_learn_are_bad_rows(learn, turns, why):
    with pytest.raises(RowError, match=why):
        text_of({"messages": turns}, "text", "template", "a.jsonl", learn=learn)
