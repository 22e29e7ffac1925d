import copy

import pytest

from align.errors import InputError
from experiments.writing.drawing import Drawing
from experiments.writing.talk import Talk
from experiments.writing.writer import Writer
from teacher.loading.models import load_model

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def writer(tiny_llama):
    loaded = load_model(tiny_llama, dtype="float32")
    made = Writer(loaded.model, loaded.tokenizer, "llama")
    made.ends = []  # never silent
    return made


def read_by(writer, monkeypatch):
    """What the model is given, turn by turn, as text."""
    texts, stream = [], writer.stream

    def note(ids, drawing, to):
        texts.append(writer.tokenizer.decode(ids))
        stream(ids, drawing, to)

    monkeypatch.setattr(writer, "stream", note)
    return texts


def test_without_a_template_the_text_goes_on(writer, monkeypatch):
    texts, shown = read_by(writer, monkeypatch), []
    talk = Talk(writer, Drawing(max_new_tokens=3))
    first = talk.answer("one", shown.append)
    assert "".join(shown) == first != ""
    talk.answer("two", shown.append)
    assert texts == ["one", f"one{first}\ntwo"]
    talk.reset()
    talk.answer("three", shown.append)
    assert texts[-1] == "three"


def test_a_template_shows_who_said_what(writer, monkeypatch):
    writer.tokenizer = copy.deepcopy(writer.tokenizer)
    writer.tokenizer.chat_template = TEMPLATE
    texts = read_by(writer, monkeypatch)
    talk = Talk(writer, Drawing(max_new_tokens=2))
    first = talk.answer("a", lambda text: None)
    talk.answer("b", lambda text: None)
    turns = f"<user>a<assistant>{first}<user>b<assistant>"
    assert texts == ["<user>a<assistant>", turns]


def test_the_oldest_turns_are_forgotten_until_an_answer_fits(writer, monkeypatch):
    texts = []

    def stream(ids, drawing, to):
        texts.append(writer.tokenizer.decode(ids))
        to.on_finalized_text("wxyz")

    monkeypatch.setattr(writer, "stream", stream)
    writer.context = 16  # bytes
    talk = Talk(writer, Drawing(max_new_tokens=4))
    forgotten = []
    for message in ("aaaa", "bbbb", "cc"):
        talk.answer(message, lambda text: None)
        forgotten.append(talk.forgotten)
    # "aaaawxyz", a line's end and "bbbb" are 13, too many for an answer of 4
    assert texts == ["aaaa", "bbbb", "bbbbwxyz\ncc"]
    assert forgotten == [0, 1, 0]
    with pytest.raises(InputError, match="has 16 tokens, but llama reads 16"):
        talk.answer("d" * 16, lambda text: None)
    talk.answer("", lambda text: None)  # what was too long has cost no turn
    assert texts[-1] == "ccwxyz\n"


def test_an_interrupt_ends_the_answer_and_not_the_talk(writer, monkeypatch):
    texts, shown = read_by(writer, monkeypatch), []

    def show(text):
        shown.append(text)
        if len(shown) == 1:
            raise KeyboardInterrupt

    talk = Talk(writer, Drawing(max_new_tokens=30))
    answer = talk.answer("one", show)
    assert shown == [answer, " …"]
    talk.answer("two", lambda text: None)
    assert texts[-1] == f"one{answer}\ntwo"
