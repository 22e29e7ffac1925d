"""Tools, their calls and their answers as text that every model reads alike.

Templates write calls each in its own way, or not at all, so that two models would not
share them. As contents of messages they are text like any other: aligned, learned and
measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Tools = Literal["refuse", "text"]
"""Whether rows with tools are bad rows, or have them written out as text."""

_HEAD = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
"""
_FOOT = """
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""

_ANSWERS = {"tool", "function", "observation", "tool_response"}
"""Roles of what a tool answers."""
_CALLS = {"function_call", "tool_call"}
"""Who speaks, in ``conversations``, where a value is a call."""
OF_TOOLS = _ANSWERS | _CALLS
"""Who speaks where a turn belongs to a tool."""
_CALL, _ANSWER = "tool_call", "tool_response"


def has_tools(record: Mapping[str, Any]) -> bool:
    """Whether a row describes tools, calls them or holds what they answered."""
    if record.get("tools"):
        return True
    return any(_is_of_tools(turn) for name in _LISTS for turn in _turns(record, name))


def tools_as_text(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose tools, calls and answers are contents of messages.

    Descriptions stand at the end of the system message, which is made where there is
    none; a call at the end of the assistant's content; answers in a row become one
    message of the user. What is no message, or has no such parts, stays as it is.

    Args:
        record: with ``messages``, ``conversations``, or ``prompt`` and ``completion``
            that are lists of messages.

    Source:
        The text that the Hermes function-calling format defines and Qwen2.5's chat
        template writes. Departure: it is written out for every model, whatever its own
        template would make of tools.
    """
    out = {key: value for key, value in record.items() if key != "tools"}
    for name in _LISTS:
        if name in out and not isinstance(out[name], str):
            out[name] = _joined([_as_text(turn) for turn in _turns(out, name)])
    tools = _parsed(record.get("tools"))
    first = next((name for name in _LISTS if isinstance(out.get(name), list)), None)
    if not tools or first is None:
        return out
    lines = "\n".join(map(_written, tools if isinstance(tools, list) else [tools]))
    described = f"{_HEAD}{lines}{_FOOT}"
    beside = out.get("system")
    if isinstance(beside, str) and beside.strip():
        return {**out, "system": f"{beside}\n\n{described}"}
    before, turns = "", list(out[first])
    if turns and _speaker(turns[0]) == "system":
        content = _content(turns.pop(0))
        before = f"{content}\n\n" if content else ""
    system = {"role": "system", "content": f"{before}{described}"}
    return {**out, first: [system, *turns]}


_LISTS = ("messages", "conversations", "prompt", "completion")
"""Fields that hold messages."""


def _turns(record: Mapping[str, Any], name: str) -> list[Any]:
    value = record.get(name)
    if isinstance(value, Mapping):
        return [value]
    return [] if value is None or isinstance(value, str) else list(value)


def _speaker(turn: Any) -> Any:
    return turn.get("role", turn.get("from")) if isinstance(turn, Mapping) else None


def _content(turn: Mapping[str, Any]) -> Any:
    value = turn.get("content", turn.get("value"))
    return "" if value is None else value


def _is_of_tools(turn: Any) -> bool:
    if not isinstance(turn, Mapping):
        return False
    calls = turn.get("tool_calls") or turn.get("function_call")
    return bool(calls) or _speaker(turn) in OF_TOOLS


def _as_text(turn: Any) -> Any:
    """A turn without tools as it is; one of tools as a turn of text, marked where it
    is an answer."""
    if not _is_of_tools(turn):
        return turn
    content, speaker = _content(turn), _speaker(turn)
    if speaker in _ANSWERS:
        return _Answer(role="user", content=_tagged(_plain(content), _ANSWER))
    if speaker in _CALLS:
        calls = _parsed(content)
        parts = calls if isinstance(calls, list) else [calls]
        words = [_tagged(_call(call), _CALL) for call in parts]
        return {"role": "assistant", "content": "\n".join(words)}
    listed = turn.get("tool_calls") or [turn["function_call"]]
    listed = [listed] if isinstance(listed, Mapping) else list(listed)
    words = [_plain(content)] if content else []
    words += [_tagged(_call(_function(call)), _CALL) for call in listed]
    return {"role": "assistant", "content": "\n".join(words)}


class _Answer(dict[str, Any]):
    """A turn that is what a tool answered."""


def _joined(turns: Sequence[Any]) -> list[Any]:
    """Answers that follow each other as one turn."""
    out: list[Any] = []
    for turn in turns:
        if isinstance(turn, _Answer) and out and isinstance(out[-1], _Answer):
            out[-1] = _Answer(
                out[-1], content=f"{out[-1]['content']}\n{turn['content']}"
            )
        else:
            out.append(turn)
    return out


def _function(call: Any) -> Any:
    """The call itself, of OpenAI's form, which wraps it."""
    inner = call.get("function") if isinstance(call, Mapping) else None
    return inner if isinstance(inner, Mapping) else call


def _call(call: Any) -> str:
    if not isinstance(call, Mapping) or "name" not in call:
        return _plain(call)
    arguments = call.get("arguments", call.get("parameters"))
    known = {"name": call["name"], "arguments": _parsed(arguments)}
    return _written(known)


def _plain(value: Any) -> str:
    """What was said: a text, the texts of its parts, or anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        parts = [p.get("text") if isinstance(p, Mapping) else p for p in value]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "".join(texts)
    return _written(value)


def _tagged(content: str, tag: str) -> str:
    """Between tags, unless whoever wrote it put them there."""
    content = content.strip()
    if content.startswith(f"<{tag}>"):
        return content
    return f"<{tag}>\n{content}\n</{tag}>"


def _parsed(value: Any) -> Any:
    """What a string of JSON holds; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
