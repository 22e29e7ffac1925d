import copy
import pickle

import pytest

from align.conversation import Conversation, conversation_of

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


@pytest.mark.parametrize(
    ("record", "turns", "plain"),
    [
        ({"messages": TALK[:1]}, [("user", "What is 2+2?")], "user: What is 2+2?"),
        ({"messages": TALK[0]}, [("user", "What is 2+2?")], "user: What is 2+2?"),
        (
            {"prompt": "1+1=", "completion": "2", "id": 7},
            [("user", "1+1="), ("assistant", "2")],
            "1+1=2",
        ),
        (
            {"prompt": TALK[:1], "completion": TALK[1:2]},
            [("user", "What is 2+2?"), ("assistant", "4")],
            "user: What is 2+2?\n\nassistant: 4",
        ),
    ],
)
def test_rows_of_chat_data_are_conversations(record, turns, plain):
    talk = conversation_of(record, "here")
    assert [(m["role"], m["content"]) for m in talk.messages] == turns
    assert talk.plain() == plain


@pytest.mark.parametrize("record", [{}, {"text": "a"}, {"prompt": "a"}])
def test_other_rows_are_not(record):
    assert conversation_of(record, "here") is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"messages": "hello"},
            "a.jsonl, line 3: field 'messages' is str; give a list",
        ),
        ({"messages": 3}, "field 'messages' is int"),
        ({"messages": ["a"]}, "a message is 'a'; give objects with role and content"),
        ({"messages": [{"role": "user"}]}, "give objects with role and content"),
        (
            {"messages": [{"role": "assistant", "content": None}]},
            "field 'content' is NoneType; give a string",
        ),
        ({"prompt": "a", "completion": 3}, "field 'completion' is int"),
    ],
)
def test_what_is_no_message_is_named_with_its_place(record, message):
    with pytest.raises(ValueError, match=message):
        conversation_of(record, "a.jsonl, line 3")
