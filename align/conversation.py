"""A conversation as a text that knows its turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from align.errors import InputError

Message = Mapping[str, Any]
"""``role`` and ``content``, and what else a chat template may read."""

Chats = Literal["template", "plain"]
"""Whether conversations keep their turns, for each model's own chat template, or
become one plain text."""

_PAIR = ("prompt", "completion")


class Conversation(str):
    """The contents of all messages joined, with nothing between.

    It is a ``str``, so whoever counts, compares or reports characters treats it as
    any text, and spans index it. Only :func:`align.tokens.encode_chats` asks for the
    messages. Its pieces (slices, ``strip()``) are plain strings; use :meth:`cut`.
    """

    messages: tuple[Message, ...]
    joint: str | None
    """What stands between contents that were written to be read in a row."""

    def __new__(
        cls, messages: Sequence[Message], joint: str | None = None
    ) -> Conversation:
        """Join the contents.

        Args:
            messages: each with a string as ``content``.
            joint: for models without a chat template; None separates paragraphs.
        """
        made = super().__new__(cls, "".join(m["content"] for m in messages))
        made.messages, made.joint = tuple(messages), joint
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What a copy in another process is made of."""
        return (self.messages, self.joint)

    def cut(self, chars: int) -> Conversation:
        """The front of the conversation, its last content cut short.

        Args:
            chars: most characters of all contents together, >= 0.
        """
        kept: list[Message] = []
        for message in self.messages:
            if chars <= 0 and message["content"]:
                break
            kept.append({**message, "content": message["content"][:chars]})
            chars -= len(message["content"])
        return Conversation(kept, self.joint)

    def plain(self) -> str:
        """One plain text for models without turns.

        A prompt and its completion stand side by side as they were written, other
        conversations as paragraphs ``role: content``.
        """
        if self.joint is not None:
            return self.joint.join(m["content"] for m in self.messages)
        return "\n\n".join(f"{m['role']}: {m['content']}" for m in self.messages)


def conversation_of(record: Mapping[str, Any], where: str) -> Conversation | None:
    """The conversation in a row of data.

    Args:
        record: holds ``messages``, or ``prompt`` and ``completion``, each of them a
            text (the user's, the assistant's) or a list of messages.
        where: the row's place, for errors.

    Returns:
        None where the record holds no such field.

    Raises:
        ValueError: a message is not one.
    """
    if "messages" in record:
        return Conversation(_messages(record["messages"], "messages", where))
    if "prompt" not in record or "completion" not in record:
        return None
    pair = record["prompt"], record["completion"]
    turns: list[Message] = []
    for name, role, value in zip(_PAIR, ("user", "assistant"), pair, strict=True):
        if isinstance(value, str):
            turns.append({"role": role, "content": value})
        else:
            turns += _messages(value, name, where)
    written = all(isinstance(value, str) for value in pair)
    return Conversation(turns, "" if written else None)


def _messages(value: Any, name: str, where: str) -> list[Message]:
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(
            f"{where}: field {name!r} is {type(value).__name__}; give a list of "
            "objects with role and content"
        )
    for turn in value:
        if not isinstance(turn, Mapping) or not {"role", "content"} <= turn.keys():
            raise InputError(
                f"{where}: a message is {turn!r:.60}; give objects with role and "
                "content"
            )
        for field in ("role", "content"):
            if not isinstance(turn[field], str):
                raise InputError(
                    f"{where}: field {field!r} is {type(turn[field]).__name__}; give "
                    "a string"
                )
    return list(value)
