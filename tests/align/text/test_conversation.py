import copy
import pickle

import pytest

from align.text.conversation import Conversation

TALK = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "4", "name": "calculator"},
    {"role": "user", "content": ""},
]


def test_a_conversation_is_the_text_of_its_contents():
    talk = Conversation(TALK)
    assert talk == "What is 2+2?4" and len(talk) == 13 and hash(talk) == hash(str(talk))
    assert talk.messages == tuple(TALK)
    assert type(talk.strip()) is str and type(talk[:4]) is str


def test_copies_keep_the_turns():
    talk = Conversation(TALK, "\n")
    for other in (pickle.loads(pickle.dumps(talk)), copy.deepcopy(talk)):
        assert other == talk and other.messages == talk.messages
        assert other.joint == "\n"


@pytest.mark.parametrize(
    ("chars", "contents"),
    [
        (0, []),
        (4, ["What"]),
        (12, ["What is 2+2?"]),
        (13, ["What is 2+2?", "4", ""]),
        (99, ["What is 2+2?", "4", ""]),
    ],
)
def test_a_cut_keeps_the_front_and_every_field(chars, contents):
    cut = Conversation(TALK, "").cut(chars)
    assert [message["content"] for message in cut.messages] == contents
    assert cut == "".join(contents) and cut.joint == ""
    assert all(
        {**message, "content": ""} == {**whole, "content": ""}
        for message, whole in zip(cut.messages, TALK, strict=False)
    )
