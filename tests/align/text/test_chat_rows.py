"""Conversations are read from the forms in which the trade writes them."""

import pytest

from align.text.chat_rows import RowError
from align.text.conversation import Conversation
from align.text.records import text_of

TALK = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "4", "name": "calculator"},
    {"role": "user", "content": ""},
]
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]
PARTS = [{"type": "text", "text": "one "}, {"type": "text", "text": "two", "x": None}]


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
        (
            {"conversations": SHARED, "system": "Be brief.", "id": "x1"},
            [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?")],
            "system: Be brief.\n\nuser: Hi\n\nassistant: Yes?",
        ),
        (
            {"conversations": TALK[:2]},
            [("user", "What is 2+2?"), ("assistant", "4")],
            "user: What is 2+2?\n\nassistant: 4",
        ),
        (
            {"instruction": "Add.", "input": "1 and 2", "output": "3"},
            [("user", "Add.\n1 and 2"), ("assistant", "3")],
            "Add.\n1 and 2\n\n3",
        ),
        (
            {"instruction": "Sing.", "input": " ", "output": "La", "system": None},
            [("user", "Sing."), ("assistant", "La")],
            "Sing.\n\nLa",
        ),
        (
            {
                "instruction": "And 3?",
                "output": "9",
                "history": [["2 squared?", "4"]],
                "system": "Count.",
            },
            [
                ("system", "Count."),
                ("user", "2 squared?"),
                ("assistant", "4"),
                ("user", "And 3?"),
                ("assistant", "9"),
            ],
            "Count.\n\n2 squared?\n\n4\n\nAnd 3?\n\n9",
        ),
        (
            {"messages": [{"role": "user", "content": PARTS}], "tools": []},
            [("user", "one two")],
            "user: one two",
        ),
        (
            {"messages": [{**TALK[0], "tool_calls": None}], "prompt": "not this"},
            [("user", "What is 2+2?")],
            "user: What is 2+2?",
        ),
    ],
)
def test_rows_of_chat_data_are_conversations(record, turns, plain):
    talk = text_of(record, "text", "template", "here")
    assert [(m["role"], m["content"]) for m in talk.messages] == turns
    assert text_of(record, "text", "plain", "here") == talk.plain() == plain


def test_a_role_of_the_writers_own_is_left_to_the_template():
    turns = [{"role": "developer", "content": "a"}, {"role": "wizard", "content": "b"}]
    talk = text_of({"messages": turns}, "text", "template", "a.jsonl, line 3")
    assert [message["role"] for message in talk.messages] == ["developer", "wizard"]


def test_a_text_beside_turns_is_taken_and_half_a_form_is_none():
    text = text_of({"text": "a", "messages": TALK}, "text", "template", "here")
    assert text == "a" and not isinstance(text, Conversation)
    for record in ({}, {"prompt": "a"}, {"output": "a", "input": "b"}):
        with pytest.raises(RowError, match="here: no field 'text' among"):
            text_of(record, "text", "template", "here")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"messages": "hello"},
            "a.jsonl, line 3: field 'messages' is the string 'hello'; give a list",
        ),
        ({"messages": 3}, "field 'messages' is the number 3"),
        ({"messages": ["a"]}, r"messages\[0\] is 'a'; give objects with role and con"),
        ({"messages": [{"role": "user"}]}, "give objects with role and content"),
        (
            {"messages": [{"role": "assistant", "content": None}]},
            r"field 'messages\[0\]\.content' is null; give a string",
        ),
        ({"prompt": "a", "completion": 3}, "field 'completion' is the number 3"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            r"messages\[0\]\.content has a part of type 'image_url'; only text is",
        ),
        ({"messages": [{"role": "user", "content": [3]}]}, "a part of type 'int'"),
        (
            {"messages": [TALK[0], {**TALK[1], "tool_calls": [{"id": 1}]}]},
            r"messages\[1\] calls a tool; .* or data\.on_bad_row=skip",
        ),
        ({"messages": TALK, "tools": [{"name": "add"}]}, "field 'tools' describes"),
        (
            {"conversations": [{"from": "function_call", "value": "{}"}]},
            r"\[0\] is from 'function_call', which is none of human.*tools=text",
        ),
        (
            {"conversations": [{"from": "bing", "value": "b"}]},
            r"from 'bing', which is none of human.*; rename it, or set data.on_bad_row",
        ),
        (
            {"messages": [TALK[0], {"role": "gpt", "content": "b"}]},
            r"messages\[1\]\.role is 'gpt', which .* data.learn call 'assistant'; ren",
        ),
        (
            {"messages": [{"role": " User", "content": "b"}]},
            r"messages\[0\]\.role is ' User', which .* call 'user'",
        ),
        (
            {"conversations": [{"from": "gpt", "value": None}]},
            "is null; give a string, or set data.on_b",
        ),
        ({"conversations": ["a"]}, r"conversations\[0\] is 'a'"),
        ({"instruction": "a", "output": None}, "field 'output' is null"),
        (
            {"instruction": "a", "output": "b", "history": [["c"]]},
            r"history\[0\] is \['c'\]; give pairs",
        ),
    ],
)
def test_what_is_no_message_is_named_with_its_place(record, message):
    with pytest.raises(RowError, match=message):
        text_of(record, "text", "template", "a.jsonl, line 3")
