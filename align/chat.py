"""Conversations: every model reads its own template, only contents are aligned.

Two chat models see different texts of one conversation, since each wraps the
messages in marks of its own. What they share are the contents, so spans are counted
in the contents joined together, and tokens of the template hold no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align.byte_lengths import ByteLengths
from align.conversation import Conversation, Message
from align.text import TextSample
from align.tokens import TokenBatch, encode_batch

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
    conversation = _conversation(messages)
    messages = conversation.messages
    contents = [message["content"] for message in messages]
    if has_template(tokenizer):
        text = _filled(tokenizer, messages, contents)
        marks = _marks(tokenizer, messages, contents)
    else:
        joint = "\n\n" if conversation.joint is None else conversation.joint
        text, marks = joint.join(contents), ["", *[joint] * (len(contents) - 1), ""]
    spans, trimmed, at = [], [], len(marks[0])
    for index, content in enumerate(contents):
        after = marks[index + 1]
        fitting = [
            (lead, at + len(shown))
            for lead, shown in _trimmings(content)
            if text.startswith(shown + after, at)
        ]
        if not fitting:
            raise ValueError(
                f"messages[{index}]: the chat template does not show the content "
                f"{content[:40]!r} as it is; pass the content that the model is to "
                "read (without hidden reasoning), or set another chat_template"
            )
        lead, end = fitting[0]
        spans.append((at, end))
        trimmed.append(lead)
        at = end + len(after)
    return Rendered(text, tuple(spans), tuple(trimmed))


def encode_chats(
    tokenizer: Any,
    conversations: Sequence[Conversation | Sequence[Message]],
    max_length: int | None = None,
    byte_lengths: ByteLengths | None = None,
) -> TokenBatch:
    """Tokenise conversations, each in the model's own template.

    Args:
        tokenizer: a fast Hugging Face tokenizer, with a chat template or without.
        conversations: B conversations, or lists of messages.
        max_length: longest row in tokens; None keeps all.
        byte_lengths: as for :func:`align.tokens.encode_batch`.

    Returns:
        The batch. Its ``texts`` are the contents of each conversation, joined with
        nothing between, the same for every model; tokens of the template have
        zero width.

    Raises:
        ValueError: see :func:`render_chat`.
    """
    talks = [_conversation(messages) for messages in conversations]
    shown = [render_chat(tokenizer, talk) for talk in talks]
    batch = encode_batch(
        tokenizer,
        [one.text for one in shown],
        max_length=max_length,
        add_special_tokens=not has_template(tokenizer),  # a template writes its own
        byte_lengths=byte_lengths,
    )
    spans = batch.spans.numpy()
    moved = [
        _to_contents(spans[row], one, talks[row].messages)
        for row, one in enumerate(shown)
    ]
    placed = torch.from_numpy(np.stack(moved)) if moved else batch.spans
    return replace(batch, spans=placed, texts=tuple(talks))


def in_order(
    texts: Sequence[str], written: TokenBatch, spoken: TokenBatch, fill: int
) -> TokenBatch:
    """One batch of plain texts and conversations that were tokenised apart.

    Args:
        texts: both, in the order wanted.
        written: the plain ones among them.
        spoken: the conversations among them.
        fill: the id that fills rows up.
    """
    width = max(written.ids.shape[1], spoken.ids.shape[1])
    talks = torch.tensor([isinstance(text, Conversation) for text in texts])
    order = talks.long().argsort(stable=True).argsort()
    return TokenBatch(
        _stacked(written.ids, spoken.ids, width, fill)[order],
        _stacked(written.mask, spoken.mask, width, False)[order],
        _stacked(written.spans, spoken.spans, width, 0)[order],
        tuple(texts),
    )


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer brings a chat template."""
    return getattr(tokenizer, "chat_template", None) is not None


def check_chats(tokenizer: Any, samples: Iterable[TextSample]) -> None:
    """See, before any work, that a model's template takes every conversation.

    Raises:
        ValueError: see :func:`render_chat`; names the sample.
    """
    if not has_template(tokenizer):
        return
    for sample in samples:
        if isinstance(sample.text, Conversation):
            try:
                render_chat(tokenizer, sample.text)
            except ValueError as error:
                raise ValueError(f"{sample.id}: {error}") from error


def _stacked(above: Tensor, below: Tensor, width: int, fill: int) -> Tensor:
    """Two batches under each other, rows filled up to one width."""
    rows = len(above) + len(below)
    out = above.new_full((rows, width, *above.shape[2:]), fill)
    out[: len(above), : above.shape[1]] = above
    out[len(above) :, : below.shape[1]] = below
    return out


def _conversation(messages: Conversation | Sequence[Message]) -> Conversation:
    if isinstance(messages, Conversation):
        return messages
    for index, message in enumerate(messages):
        for field in ("role", "content"):
            if not isinstance(message.get(field), str):
                raise ValueError(
                    f"messages[{index}].{field} is {message.get(field)!r}; give a str"
                )
    return Conversation(messages)


def _filled(
    tokenizer: Any, messages: Sequence[Message], contents: Sequence[str]
) -> str:
    from jinja2 import TemplateError

    turns = [
        {**message, "content": content}
        for message, content in zip(messages, contents, strict=True)
    ]
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"the chat template refuses this conversation ({roles}): {error}; give "
            "turns that this model takes"
        ) from error
    return text


def _marks(
    tokenizer: Any, messages: Sequence[Message], contents: Sequence[str]
) -> list[str]:
    """What the template writes before, between and after the contents."""
    stand_ins = [f"\ue000{index}\ue001" for index in range(len(contents))]
    rest, marks = _filled(tokenizer, messages, stand_ins), []
    for index, stand_in in enumerate(stand_ins):
        before, found, rest = rest.partition(stand_in)
        if not found:
            raise ValueError(
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


def _to_contents(spans: Ints, shown: Rendered, messages: Sequence[Message]) -> Ints:
    """Spans in the rendered text to spans in the joined contents."""
    size = len(shown.text)
    place = np.full(size, -1, dtype=np.int64)  # of each character in the contents
    begin = 0
    for (start, end), lead, message in zip(
        shown.spans, shown.trimmed, messages, strict=True
    ):
        place[start:end] = np.arange(end - start) + begin + lead
        begin += len(message["content"])
    held = np.flatnonzero(place >= 0)
    first = np.searchsorted(held, spans[:, 0])
    last = np.searchsorted(held, spans[:, 1])  # held characters before the end
    known = np.append(place[held], begin)
    moved = np.stack([known[first], known[np.maximum(last, 1) - 1] + 1], axis=1)
    read = np.where(last > 0, known[np.maximum(last, 1) - 1] + 1, 0)
    return np.where((last > first)[:, None], moved, read[:, None])
