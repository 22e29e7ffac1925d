"""Conversations in rows of data, in the forms that the trade writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.errors import InputError
from align.text.conversation import Conversation, Message
from align.text.tool_calls import OF_TOOLS


class RowError(InputError):
    """A row that holds no text to learn from; the rows beside it may."""


@dataclass(frozen=True, slots=True)
class Form:
    """One of the ways in which rows hold a text."""

    needed: tuple[str, ...]
    """Fields that make a row one of this form."""
    more: tuple[str, ...]
    """Fields that are read too, where they are there."""
    read: Callable[[Mapping[str, Any], str], str]
    """The text of a row, given its place for errors."""

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of the form."""
        return self.needed + self.more


_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
"""Who speaks in ``conversations``, and the role it has for chat templates."""

_ROLES = {**_SPEAKERS, "tool": "tool", "function": "function"}
"""What writers of ``messages`` say, and what chat templates ask for."""

_SKIP = "or set data.on_bad_row=skip to leave such rows out"

_TOOLS = (
    "set data.tools=text to read tools and their calls as text, or "
    "data.on_bad_row=skip to leave such rows out"
)


def _of_messages(record: Mapping[str, Any], where: str) -> Conversation:
    """``messages``: objects with role and content."""
    _no_tools(record, where)
    return Conversation(_messages(record["messages"], "messages", where))


def _of_speakers(record: Mapping[str, Any], where: str) -> Conversation:
    """``conversations``, as ShareGPT writes them: objects with from and value."""
    _no_tools(record, where)
    name = "conversations"
    turns = []
    for index, turn in enumerate(_list(record[name], name, where)):
        if isinstance(turn, Mapping) and {"from", "value"} <= turn.keys():
            speaker = turn["from"]
            if speaker not in _SPEAKERS:
                advice = _TOOLS if speaker in OF_TOOLS else f"rename it, {_SKIP}"
                raise RowError(
                    f"{where}: {name}[{index}] is from {speaker!r:.40}, which is none "
                    f"of {', '.join(_SPEAKERS)}; {advice}"
                )
            turn = {"role": _SPEAKERS[speaker], "content": turn["value"]}
        turns.append(turn)
    return Conversation(_before(record, where) + _messages(turns, name, where))


def _of_pair(record: Mapping[str, Any], where: str) -> Conversation:
    """``prompt`` and ``completion``: texts, or lists of messages."""
    _no_tools(record, where)
    pair = {name: record[name] for name in ("prompt", "completion")}
    turns: list[Message] = []
    for (name, value), role in zip(pair.items(), ("user", "assistant"), strict=True):
        if isinstance(value, str):
            turns.append({"role": role, "content": value})
        else:
            turns += _messages(value, name, where)
    written = all(isinstance(value, str) for value in pair.values())
    return Conversation(turns, "" if written else None)


def _of_instruction(record: Mapping[str, Any], where: str) -> Conversation:
    """``instruction``, ``input`` and ``output``, as Alpaca writes them.

    The input, where there is one, is the instruction's next line; ``history`` holds
    pairs of earlier instructions and outputs.
    """
    turns = _before(record, where)
    for index, pair in enumerate(record.get("history") or ()):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise RowError(
                f"{where}: history[{index}] is {pair!r:.60}; give pairs of an "
                f"instruction and its output, {_SKIP}"
            )
        for role, value in zip(("user", "assistant"), pair, strict=True):
            content = string_of(value, f"history[{index}]", where)
            turns.append({"role": role, "content": content})
    question = string_of(record["instruction"], "instruction", where)
    context = string_of(record.get("input") or "", "input", where)
    if context.strip():
        question = f"{question}\n{context}"
    turns.append({"role": "user", "content": question})
    output = string_of(record["output"], "output", where)
    return Conversation([*turns, {"role": "assistant", "content": output}], "\n\n")


CHAT_FORMS = (
    Form(("messages",), ("tools",), _of_messages),
    Form(("conversations",), ("system", "tools"), _of_speakers),
    Form(("prompt", "completion"), ("tools",), _of_pair),
    Form(("instruction", "output"), ("input", "system", "history"), _of_instruction),
)
"""The forms that are conversations, by precedence."""


def string_of(value: Any, name: str, where: str) -> str:
    """A field's value, which must be a string.

    Raises:
        RowError: it is not.
    """
    if not isinstance(value, str):
        raise RowError(
            f"{where}: field {name!r} is {named(value)}; give a string, {_SKIP}"
        )
    return value


def named(value: Any) -> str:
    """What a value is, in the words of JSON."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value!r:.40}"
        case str():
            return f"the string {value!r:.40}"
        case Mapping():
            return "an object"
        case Sequence():
            return "a list"
        case _:
            return f"of type {type(value).__name__}"


def _before(record: Mapping[str, Any], where: str) -> list[Message]:
    """The turn that a ``system`` field beside the conversation stands for."""
    system = string_of(record.get("system") or "", "system", where)
    return [{"role": "system", "content": system}] if system.strip() else []


def _messages(value: Any, name: str, where: str) -> list[Message]:
    turns: list[Message] = []
    for index, turn in enumerate(_list(value, name, where)):
        if not isinstance(turn, Mapping) or not {"role", "content"} <= turn.keys():
            raise RowError(
                f"{where}: {name}[{index}] is {turn!r:.60}; give objects with role and "
                f"content, {_SKIP}"
            )
        place = f"{name}[{index}]"
        if turn.get("tool_calls") or turn.get("function_call"):
            raise RowError(f"{where}: {place} calls a tool; {_TOOLS}")
        role = string_of(turn["role"], "role", where)
        usual = _ROLES.get(role.strip().lower(), role)
        if usual != role:
            raise RowError(
                f"{where}: {place}.role is {role!r:.40}, which chat templates and "
                f"data.learn call {usual!r}; rename it, {_SKIP}"
            )
        content = _content(turn["content"], f"{place}.content", where)
        turns.append({**turn, "role": role, "content": content})
    return turns


def _content(value: Any, name: str, where: str) -> str:
    """What a message says: a text, or a list of parts, which are joined."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return string_of(value, name, where)
    texts = []
    for part in value:
        if isinstance(part, str):
            texts.append(part)
            continue
        is_object = isinstance(part, Mapping)
        kind = part.get("type", "text") if is_object else type(part).__name__
        if not is_object or kind != "text" or not isinstance(part.get("text"), str):
            raise RowError(
                f"{where}: {name} has a part of type {kind!r}; only text is learned: "
                f"leave it out, {_SKIP}"
            )
        texts.append(part["text"])
    return "".join(texts)


def _list(value: Any, name: str, where: str) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError(
            f"{where}: field {name!r} is {named(value)}; give a list of objects with "
            f"role and content, {_SKIP}"
        )
    return value


def _no_tools(record: Mapping[str, Any], where: str) -> None:
    """A template would not show them, and calls would come from nowhere."""
    if record.get("tools"):
        raise RowError(f"{where}: field 'tools' describes tools; {_TOOLS}")
