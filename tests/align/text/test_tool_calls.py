"""Tools are text of the conversation, in the words of the template they are from."""

import pytest

from align.text.chat_rows import RowError
from align.text.records import text_of
from align.text.tool_calls import tools_as_text

ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "1", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
OPENAI = {
    "tools": [ADD],
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 and 2, and 3 and 4?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
        {"role": "tool", "content": [{"type": "text", "text": "7"}]},
        {"role": "assistant", "content": "3 and 7."},
    ],
}
SHARED = {
    "system": "Be brief.",
    "tools": '[{"name": "add"}]',
    "conversations": [
        {"from": "human", "value": "1 and 2?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "3."},
    ],
}
WRITTEN = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
QWEN = (
    "{%- if tools %}{{- '<|im_start|>system\\n' + messages[0].content + '\\n\\n' }}"
    '{{- "# Tools\\n\\nYou may call one or more functions to assist with the user '
    "query.\\n\\nYou are provided with function signatures within <tools></tools> XML "
    'tags:\\n<tools>" }}{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}'
    '{%- endfor %}{{- "\\n</tools>\\n\\nFor each function call, return a json object '
    "with function name and arguments within <tool_call></tool_call> XML tags:\\n"
    '<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}'
    '\\n</tool_call><|im_end|>" }}{%- endif %}'
)
"""How Qwen2.5's own template describes tools."""


def turns_of(record, learn="all"):
    talk = text_of(record, "text", "template", "here", tools="text", learn=learn)
    return [(message["role"], message["content"]) for message in talk.messages]


def test_calls_and_answers_are_contents_and_the_row_is_untouched():
    turns = turns_of(OPENAI)
    assert [role for role, _ in turns] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert turns[2][1] == f"{WRITTEN}\n{WRITTEN}"
    assert turns[3][1] == (
        "<tool_response>\n3\n</tool_response>\n<tool_response>\n7\n</tool_response>"
    )
    assert OPENAI["messages"][2]["content"] is None


def test_tools_are_described_as_the_template_they_are_from_does():
    from jinja2 import Environment

    environment = Environment()
    environment.filters["tojson"] = __import__("json").dumps
    rendered = environment.from_string(QWEN).render(
        tools=OPENAI["tools"], messages=OPENAI["messages"]
    )
    said = rendered.removeprefix("<|im_start|>system\n").removesuffix("<|im_end|>")
    assert turns_of(OPENAI)[0] == ("system", said)


def test_shared_rows_call_tools_by_who_speaks():
    turns = turns_of(SHARED)
    assert turns[0][1].startswith("Be brief.\n\n# Tools")
    assert '<tools>\n{"name": "add"}\n</tools>' in turns[0][1]
    assert turns[2] == (
        "assistant",
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    )
    assert turns[3] == ("user", "<tool_response>\n3\n</tool_response>")
    tagged = {"from": "tool", "value": "<tool_response>\n3\n</tool_response>"}
    again = {**SHARED, "conversations": [*SHARED["conversations"][:2], tagged]}
    assert turns_of(again)[-1] == turns[3]


def test_what_is_no_call_stays_as_it_is_and_refused_rows_say_how_to_read_them():
    plain = {"messages": [{"role": "user", "content": "a"}, 3], "tools": None}
    assert tools_as_text(plain) == {"messages": plain["messages"]}
    odd = {"messages": [{"role": "function", "content": {"sum": 3}}]}
    assert turns_of(odd) == [("user", '<tool_response>\n{"sum": 3}\n</tool_response>')]
    for record in (OPENAI, SHARED):
        with pytest.raises(RowError, match=r"set data\.tools=text to read .* or data"):
            text_of(record, "text", "template", "here")


def test_only_what_the_assistant_says_and_calls_is_learned():
    talk = text_of(OPENAI, "text", "template", "here", tools="text", learn="assistant")
    said = [talk[start:end] for start, end in talk.learned_spans]
    assert said == [f"{WRITTEN}\n{WRITTEN}", "3 and 7."]
