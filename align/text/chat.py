"""Conversations: every model reads its own template, only contents are aligned.

Two chat models see different texts of one conversation, since each wraps the
messages in marks of its own. What they share are the contents, so spans are counted
in the contents joined together, and tokens of the template hold no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align.bounds.steps import within_steps
from align.errors import InputError
from align.text.conversation import Conversation, Message
from align.text.documents import TextSample

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as one model reads it."""

    text: str
    """The template filled in."""
    spans: tuple[tuple[int, int], ...]
    """Where each message's content stands in ``text``, [start, end)."""
    trimmed: tuple[int, ...]
    """How many leading characters of each content the template left out."""


def render_chat(tokenizer: Any, messages: Conversation | Sequence[Message]) -> Rendered:
    """Fill in a tokenizer's own chat template and find the contents in it.

    A model without a template reads the contents as paragraphs, or as the
    conversation's ``joint`` says. Templates may trim
    blanks around a content; whatever else they change is refused. Contents are found
    by what the template writes around them, so one that repeats a mark of the
    template, such as ``user``, is still found.

    Args:
        tokenizer: a Hugging Face tokenizer.
        messages: ``role`` and ``content`` of each turn.

    Returns:
        The rendered text and the place of every content in it.

    Raises:
        ValueError: a message lacks a field, the template refuses the conversation,
            or it rewrites a content.
    """
    return ChatRenderer(tokenizer)(messages)


class ChatRenderer:
    """:func:`render_chat` of many conversations for one tokenizer.

    What a template writes around contents is read off a conversation of stand-ins;
    those that differ in contents alone share it, which halves the templates filled in.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Know whose template it is; it must stay the same."""
        self._tokenizer = tokenizer
        self._marks: dict[str, list[str]] = {}

    def __call__(self, messages: Conversation | Sequence[Message]) -> Rendered:
        """Render one conversation, as :func:`render_chat`."""
        conversation = as_conversation(messages)
        contents = [message["content"] for message in conversation.messages]
        if has_template(self._tokenizer):
            text = _filled(self._tokenizer, conversation, contents)
            marks = self._marks_of(conversation)
        else:
            joint = "\n\n" if conversation.joint is None else conversation.joint
            text = joint.join(contents)
            marks = ["", *[joint] * (len(contents) - 1), ""]
        return _found(text, contents, marks)

    def _marks_of(self, conversation: Conversation) -> list[str]:
        alike = [{**message, "content": ""} for message in conversation.messages]
        key = f"{conversation.today} {alike}"
        if key not in self._marks:
            if len(self._marks) >= _MARKS_KEPT:
                self._marks.clear()
            self._marks[key] = _marks(self._tokenizer, conversation)
        return self._marks[key]


_MARKS_KEPT = 1000
"""Kinds of conversations: so many turns of these roles."""


def _found(text: str, contents: Sequence[str], marks: Sequence[str]) -> Rendered:
    """Where contents stand in a filled template, between its marks."""
    spans, trimmed, at = [], [], len(marks[0])
    for index, content in enumerate(contents):
        after = marks[index + 1]
        fitting = [
            (lead, at + len(trimmed_content))
            for lead, trimmed_content in _trimmings(content)
            if text.startswith(trimmed_content + after, at)
        ]
        if not fitting:
            raise InputError(
                f"messages[{index}]: the chat template does not show the content "
                f"{content[:40]!r} as it is; pass the content that the model is to "
                "read (without hidden reasoning), or set another chat_template"
            )
        lead, end = fitting[0]
        spans.append((at, end))
        trimmed.append(lead)
        at = end + len(after)
    return Rendered(text, tuple(spans), tuple(trimmed))


def to_contents(spans: Ints, rendered: Rendered, messages: Sequence[Message]) -> Ints:
    """Move spans from the rendered text to the joined contents.

    Args:
        spans: (T, 2) int64 [start, end) in ``shown.text``.
        rendered: from :func:`render_chat`.
        messages: that were rendered.

    Returns:
        (T, 2) int64; spans of the template alone are empty.
    """
    size = len(rendered.text)
    place = np.full(size, -1, dtype=np.int64)  # of each character in the contents
    begin = 0
    for (start, end), lead, message in zip(
        rendered.spans, rendered.trimmed, messages, strict=True
    ):
        place[start:end] = np.arange(end - start) + begin + lead
        begin += len(message["content"])
    content_chars = np.flatnonzero(place >= 0)
    first = np.searchsorted(content_chars, spans[:, 0])
    last = np.searchsorted(
        content_chars, spans[:, 1]
    )  # characters of contents before the end
    content_places = np.append(place[content_chars], begin)
    moved = np.stack(
        [content_places[first], content_places[np.maximum(last, 1) - 1] + 1], axis=1
    )
    chars_before = np.where(last > 0, content_places[np.maximum(last, 1) - 1] + 1, 0)
    return np.where((last > first)[:, None], moved, chars_before[:, None])


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer brings a chat template."""
    return getattr(tokenizer, "chat_template", None) is not None


def tells_date(tokenizer: Any) -> bool:
    """Whether a tokenizer's chat template writes the day."""
    return "strftime_now" in str(getattr(tokenizer, "chat_template", None))


def check_chats(tokenizer: Any, samples: Iterable[TextSample]) -> None:
    """See, before any work, that a model's template takes every conversation.

    Raises:
        ValueError: see :func:`render_chat`; names the sample.
    """
    if not has_template(tokenizer):
        return
    render = ChatRenderer(tokenizer)
    for sample in samples:
        if isinstance(sample.text, Conversation):
            try:
                render(sample.text)
            except InputError as error:
                raise InputError(f"{sample.id}: {error}") from error


def as_conversation(messages: Conversation | Sequence[Message]) -> Conversation:
    """A list of messages as a conversation; a conversation as it is.

    Raises:
        ValueError: a message lacks a field.
    """
    if isinstance(messages, Conversation):
        return messages
    for index, message in enumerate(messages):
        for field in ("role", "content"):
            if not isinstance(message.get(field), str):
                raise InputError(
                    f"messages[{index}].{field} is {message.get(field)!r}; give a str"
                )
    return Conversation(messages)


def _filled(tokenizer: Any, conversation: Conversation, contents: Sequence[str]) -> str:
    from jinja2 import TemplateError

    messages, today = conversation.messages, conversation.today

    turns = [
        {**message, "content": content}
        for message, content in zip(messages, contents, strict=True)
    ]

    def fill() -> str:
        text: str = tokenizer.apply_chat_template(
            turns, tokenize=False, **_told(tokenizer, today)
        )
        return text

    try:
        text = within_steps(fill, "the chat template")
    except RecursionError as error:
        raise InputError(
            "the chat template calls itself without an end; set another chat_template"
        ) from error
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"the chat template refuses this conversation ({roles}): {error}; give "
            "turns that this model takes"
        ) from error
    return text


_CLOCK = (
    "{% macro strftime_now(format) %}{% set ns = namespace(text=format) %}"
    "{% for code, value in day_as.items() %}"
    "{% set ns.text = ns.text | replace(code, value) %}{% endfor %}"
    "{{ ns.text }}{% endmacro +%}"
)
"""Before a template, in place of the clock that transformers gives it; only plain data
reach a template, hence no function."""


def _told(tokenizer: Any, today: date | None) -> dict[str, Any]:
    """What a template that writes the day is to be told, so that it asks no clock."""
    if today is None or not tells_date(tokenizer):
        return {}
    codes = [f"%{flag}{code}" for code in "aAbBdmyYjUuwWGVHIMSp" for flag in ("-", "")]
    day = {code: today.strftime(code) for code in codes} | {"%%": "%"}
    template = tokenizer.get_chat_template()
    return {"chat_template": _CLOCK + template, "day_as": day}


def _marks(tokenizer: Any, conversation: Conversation) -> list[str]:
    """What the template writes before, between and after the contents."""
    turns = range(len(conversation.messages))
    stand_ins = [f"\ue000{index}\ue001" for index in turns]
    rest, marks = _filled(tokenizer, conversation, stand_ins), []
    for index, stand_in in enumerate(stand_ins):
        before, matched, rest = rest.partition(stand_in)
        if not matched:
            raise InputError(
                f"messages[{index}]: the chat template leaves this turn out, or "
                "changes the order; give turns that this model takes"
            )
        marks.append(before)
    return [*marks, rest]


def _trimmings(content: str) -> list[tuple[int, str]]:
    """A content as it is, or trimmed: (leading characters left out, what remains)."""
    lead = len(content) - len(content.lstrip())
    return [
        (0, content),
        (lead, content.strip()),
        (lead, content.lstrip()),
        (0, content.rstrip()),
    ]
