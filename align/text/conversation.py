"""A conversation as a text that knows its turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal

Message = Mapping[str, Any]
"""``role`` and ``content``, and what else a chat template may read."""

Chats = Literal["template", "plain"]
"""Whether conversations keep their turns, for each model's own chat template, or
become one plain text."""

Learn = Literal["all", "assistant", "completion"]
"""Whose contents are learned: everybody's, the assistant's, or its last answer's."""


class Conversation(str):
    """The contents of all messages joined, with nothing between.

    It is a ``str``, so whoever counts, compares or reports characters treats it as
    any text, and spans index it. Only :func:`align.tokens.batch.encode_chats` asks for
    the messages. Its pieces (slices, ``strip()``) are plain strings; use :meth:`cut`.
    """

    messages: tuple[Message, ...]
    joint: str | None
    """What stands between contents that were written to be read in a row."""
    today: date | None
    """The day that chat templates are told; None lets each ask the clock."""
    goes_on: bool
    """Whether its end was cut off."""
    learned: tuple[int, ...] | None
    """Numbers of the messages whose contents are learned; None: all are."""

    def __new__(
        cls,
        messages: Sequence[Message],
        joint: str | None = None,
        today: date | None = None,
        goes_on: bool = False,
        learned: Sequence[int] | None = None,
    ) -> Conversation:
        """Join the contents.

        Args:
            messages: each with a string as ``content``.
            joint: for models without a chat template; None separates paragraphs.
            today: what templates that write the day are told; None asks the clock.
            goes_on: whether its end was cut off.
            learned: numbers of the messages whose contents are learned; None: all.
        """
        conversation = super().__new__(cls, "".join(m["content"] for m in messages))
        conversation.messages, conversation.joint, conversation.today = (
            tuple(messages),
            joint,
            today,
        )
        conversation.goes_on = goes_on
        conversation.learned = None if learned is None else tuple(learned)
        return conversation

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What a copy in another process is made of."""
        return (self.messages, self.joint, self.today, self.goes_on, self.learned)

    def on(self, today: date) -> Conversation:
        """The same conversation, held on a given day."""
        return Conversation(
            self.messages, self.joint, today, self.goes_on, self.learned
        )

    def learning(self, learn: Learn) -> Conversation:
        """The same conversation, of which these contents are learned.

        Args:
            learn: ``completion`` is the last message, if it is the assistant's.
        """
        roles = [message["role"] for message in self.messages]
        numbers = [n for n, role in enumerate(roles) if role == "assistant"]
        if learn == "completion":
            numbers = [n for n in numbers if n == len(roles) - 1]
        return Conversation(
            self.messages,
            self.joint,
            self.today,
            self.goes_on,
            None if learn == "all" else numbers,
        )

    @property
    def learned_spans(self) -> list[tuple[int, int]]:
        """Where contents that are learned stand in the joined ones, [start, end)."""
        spans, at = [], 0
        for number, message in enumerate(self.messages):
            end = at + len(message["content"])
            if self.learned is None or number in self.learned:
                spans.append((at, end))
            at = end
        return spans

    @property
    def teaches(self) -> bool:
        """Whether any of it but blanks is learned."""
        return any(self[start:end].strip() for start, end in self.learned_spans)

    def cut(self, chars: int) -> Conversation:
        """The front of the conversation, its last content cut short.

        Args:
            chars: most characters of all contents together, >= 0.
        """
        goes_on = self.goes_on or chars < len(self)
        kept: list[Message] = []
        for message in self.messages:
            if chars <= 0 and message["content"]:
                break
            kept.append({**message, "content": message["content"][:chars]})
            chars -= len(message["content"])
        return Conversation(kept, self.joint, self.today, goes_on, self.learned)

    def plain(self) -> str:
        """One plain text for models without turns.

        A prompt and its completion stand side by side as they were written, other
        conversations as paragraphs ``role: content``.
        """
        if self.joint is not None:
            return self.joint.join(m["content"] for m in self.messages)
        return "\n\n".join(f"{m['role']}: {m['content']}" for m in self.messages)
