"""A text as one model reads it: its tokens as words a person knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from align.text.conversation import Conversation
from align.tokens.batch import TokenBatch

SHOWN = 240
"""Characters of a text that are shown."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token, as it is shown."""

    text: str
    """The characters that it adds to those before it; of a mark what it spells."""
    mark: bool
    """Whether it holds none of the text: special, or a chat template's."""
    learned: bool
    """Whether the student learns to predict it."""


def labels_of(batch: TokenBatch) -> Tensor:
    """(B, T) bool, True on tokens that a student learns to predict: not the first."""
    labels = batch.predicted.clone()
    labels[:, :1] = False
    return labels


def pieces_of(
    tokenizer: Any, batch: TokenBatch, row: int, shown: int = SHOWN
) -> list[Piece]:
    """Cut one text where a model's tokens end.

    Args:
        tokenizer: that made the batch.
        batch: texts as tokens.
        row: of the text.
        shown: tokens that begin behind this character are left out.

    Returns:
        Tokens in order, padding left out. A character that several tokens share stands
        in the first of them.
    """
    text, spans = str(batch.texts[row]), batch.spans[row].tolist()
    labels, has_text = labels_of(batch)[row].tolist(), batch.has_text[row].tolist()
    pieces, shown_to = [], 0
    for place, id_ in enumerate(batch.ids[row].tolist()):
        start, end = spans[place]
        if not bool(batch.mask[row, place]):
            continue  # a source and its target stand apart
        if has_text[place] and start >= shown:
            break
        if has_text[place]:
            piece, shown_to = text[max(start, shown_to) : end], max(shown_to, end)
        else:
            piece = tokenizer.decode([id_]) or str(tokenizer.convert_ids_to_tokens(id_))
        pieces.append(Piece(piece, not has_text[place], labels[place]))
    return pieces


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """What is learned of one role's turns in conversations."""

    role: str
    turns: int
    tokens: int
    """Of the student, that hold content."""
    learned: int
    """Of these, and the ends of turns."""


def turns_of(batch: TokenBatch) -> list[Turns]:
    """Count, role by role, what the student learns of a batch's conversations."""
    labels, counted = labels_of(batch), dict[str, list[int]]()
    for row, text in enumerate(batch.texts):
        if not isinstance(text, Conversation):
            continue
        start = 0
        for message in text.messages:
            end = start + len(message["content"])
            of_role = counted.setdefault(str(message["role"]), [0, 0, 0])
            inside = (batch.spans[row, :, 0] >= start) & (batch.spans[row, :, 0] < end)
            content = batch.has_text[row] & inside
            behind = torch.zeros_like(content)
            behind[1:] = content[:-1] & ~batch.has_text[row, 1:]
            of_role[0] += bool(content.any())
            of_role[1] += int(content.sum())
            of_role[2] += int((labels[row] & (content | behind)).sum())
            start = end
    return [
        Turns(role=role, turns=turns, tokens=tokens, learned=learned)
        for role, (turns, tokens, learned) in counted.items()
    ]
