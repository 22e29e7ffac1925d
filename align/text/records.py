"""The text in a row of data, whatever file the row is from."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from align.bounds.row_size import refuse_long_row
from align.errors import InputError
from align.text.chat_rows import CHAT_FORMS, Form, RowError, named, string_of
from align.text.conversation import Chats, Conversation, Learn
from align.text.tool_calls import Tools, has_tools, tools_as_text

Row = tuple[int, str, Any]
"""A row's number, its place for errors, and what stands there."""


def text_of(
    record: Any,
    text_field: str,
    chats: Chats,
    where: str,
    *,
    learn: Learn = "all",
    tools: Tools = "refuse",
) -> str:
    """Read the text of a row.

    Args:
        record: a mapping from fields to values.
        text_field: the field that holds the text; where it is ``text`` and a row has
            none, the other forms of :data:`FORMS` are looked for, in their order.
        chats: see :func:`align.text.documents.iter_texts`.
        where: the row's place, for errors.
        learn: whose contents of a conversation are learned.
        tools: see :func:`align.text.documents.iter_texts`.

    Raises:
        RowError: the row is no mapping, has no usable field, or holds in it what is no
            text, such as a picture or half of a surrogate pair; or it is a
            conversation without a word to learn.
    """
    if not isinstance(record, Mapping):
        raise RowError(
            f"{where}: {named(record)}; give an object, such as "
            '{"text": "…"}, or set data.on_bad_row=skip to leave such rows out'
        )
    form = form_of(record.keys(), text_field, where)
    if tools == "text" and form in CHAT_FORMS and has_tools(record):
        record = tools_as_text(record)
    text = form.read(record, where)
    if isinstance(text, Conversation) and chats == "plain":
        text = text.plain()
    elif isinstance(text, Conversation):
        text = text.learning(learn)
        if not text.teaches:
            raise RowError(_nothing_learned(text, learn, where))
    return _whole(text, where)


def _nothing_learned(talk: Conversation, learn: Learn, where: str) -> str:
    roles = ", ".join(message["role"] for message in talk.messages) or "none"
    who = {
        "assistant": "no assistant says anything",
        "completion": "the last turn is no answer of the assistant",
        "all": "nobody says anything",
    }[learn]
    return (
        f"{where}: of its turns ({roles}), {who}, so nothing is learned (data.learn="
        f"{learn}); leave the row out, or set data.on_bad_row=skip"
    )


def weight_of(record: Mapping[str, Any], weight_field: str | None, where: str) -> float:
    """What a row's text counts; 1 where the row does not say.

    Args:
        record: a mapping from fields to values.
        weight_field: the field that holds it; None: none does.
        where: the row's place, for errors.

    Raises:
        InputError: what stands there is no finite number >= 0.
    """
    value = None if weight_field is None else record.get(weight_field)
    if value is None:
        return 1.0
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise InputError(
            f"{where}: {weight_field} is {value!r:.40}, but what a text counts is a "
            "number >= 0; write one, or set data.weight_field=null where the field "
            "means something else"
        )
    return weight


def form_of(fields: Collection[str], text_field: str, where: str) -> Form:
    """The form of rows that have these fields.

    Raises:
        RowError: they fit none.
    """
    if text_field in fields:
        return Form(
            (text_field,),
            (),
            lambda row, place: string_of(row[text_field], text_field, place),
        )
    if text_field == "text":
        for form in FORMS:
            if all(name in fields for name in form.needed):
                return form
    valid_forms = "; ".join(" and ".join(form.needed) for form in FORMS)
    raise RowError(
        f"{where}: no field {text_field!r} among {sorted(map(str, fields))}; set "
        f"data.text_field, or give text, or one of: {valid_forms}"
    )


def _question(record: Mapping[str, Any], where: str) -> str:
    return "\n".join(
        string_of(record[name], name, where) for name in ("question", "answer")
    )


FORMS = (*CHAT_FORMS, Form(("question", "answer"), (), _question))
"""The forms besides a text field, by precedence."""


def _whole(text: str, where: str) -> str:
    refuse_long_row(len(text), where)
    place = lone_surrogate(text)
    if place is None:
        return text
    raise RowError(
        f"{where}: {text[place]!r} after {place} characters is half of a surrogate "
        "pair and no character; write both halves, or leave it out"
    )


def lone_surrogate(text: str) -> int | None:
    """Where the first half of a surrogate pair stands alone.

    JSON can write it as ``\\ud83d`` and no tokenizer takes it.
    """
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
