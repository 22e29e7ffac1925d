"""Which tokens of texts are to be learned: answers, and contents of some turns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.text.conversation import Conversation
from align.text.prompted import Prompted


def answered(
    texts: Sequence[str], spans: Tensor, has_text: Tensor, tokens: Tensor
) -> Tensor:
    """Leave out tokens of prompts, and of turns that are not learned.

    Args:
        texts: B texts.
        spans: (B, T, 2) int64 [start, end) in characters.
        has_text: (B, T) bool, True on tokens that hold at least one character.
        tokens: (B, T) bool, what they are left out of.

    Returns:
        (B, T) bool; of a :class:`~align.text.prompted.Prompted` ``tokens`` from the
        first on that holds some of its completion, of a
        :class:`~align.text.conversation.Conversation` of which some turns are learned
        those that hold some of these, of other texts all of ``tokens``: itself, where
        all is learned of every text.
    """
    if not spans.shape[1]:
        return tokens
    kept = tokens
    if any(isinstance(text, Prompted) for text in texts):
        ends = [text.answer if isinstance(text, Prompted) else -1 for text in texts]
        prompt = torch.tensor(ends, device=spans.device)[:, None]
        end = torch.where(has_text, spans[..., 1], 0)
        kept = kept & (end > prompt).cummax(1).values
    partly = [row for row, text in enumerate(texts) if learned_part(text) is not None]
    if partly:
        kept = kept.clone()
        for row in partly:
            held = torch.zeros_like(has_text[row])
            for start, stop in learned_part(texts[row]) or ():
                held |= (spans[row, :, 1] > start) & (spans[row, :, 0] < stop)
            kept[row] &= held & has_text[row]
    return kept


def predicted_tokens(
    texts: Sequence[str], spans: Tensor, has_text: Tensor, mask: Tensor
) -> Tensor:
    """See :attr:`align.tokens.batch.TokenBatch.predicted`.

    Args:
        texts: B texts.
        spans: (B, T, 2) int64 [start, end) in characters.
        has_text: (B, T) bool, True on tokens that hold at least one character.
        mask: (B, T) bool, True on real tokens.
    """
    learned = answered(texts, spans, has_text, mask)
    if any(isinstance(text, Prompted) for text in texts):
        # A target is learned from its first token on, whether that holds text or not.
        _, target = two_parts(mask)
        learned = learned & ~target.any(1, keepdim=True)
        learned[:, 1:] |= target[:, 1:] & target[:, :-1]
    if not any(chats := [isinstance(text, Conversation) for text in texts]):
        return learned
    is_content = learned & has_text
    ends_turn = mask & ~has_text
    is_content[:, 1:] |= is_content[:, :-1] & ends_turn[:, 1:]
    row = torch.tensor(chats, device=mask.device)[:, None]
    return torch.where(row, is_content, learned)


def learned_part(text: str) -> list[tuple[int, int]] | None:
    """Where the turns that are learned stand; None where all are, or there are none."""
    if isinstance(text, Conversation) and text.learned is not None:
        return text.learned_spans
    return None


def counted_chars(texts: Sequence[str], begin: Tensor, end: Tensor) -> Tensor:
    """Characters that are learned in a stretch of each text.

    Args:
        texts: B texts.
        begin: (B,) int64, where each stretch begins.
        end: (B,) int64, where it ends.

    Returns:
        (B,) int64: of a conversation of which some turns are learned the characters of
        these, of other texts all of the stretch.
    """
    chars = end - begin
    for row, text in enumerate(texts):
        part = learned_part(text)
        if part is not None:
            first, last = int(begin[row]), int(end[row])
            inside = (min(stop, last) - max(start, first) for start, stop in part)
            chars[row] = sum(max(0, size) for size in inside)
    return chars


def two_parts(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where the rows of a mask hold a source and where a target.

    Args:
        mask: (B, T) bool, True on real tokens.

    Returns:
        (B, T) bool each. A target begins with the decoder's start token; a row of one
        part is all source.
    """
    begins = mask.clone()
    begins[:, 1:] &= ~mask[:, :-1]
    part = begins.cumsum(1)
    return mask & (part == 1), mask & (part > 1)


def speaking(mask: Tensor) -> Tensor:
    """After which tokens a model says what comes.

    Args:
        mask: (B, T) bool, True on real tokens.

    Returns:
        (B, T) bool: all of them; of a source with its target only the target's, since
        an encoder says nothing.
    """
    _, target = two_parts(mask)
    return mask & (target | ~target.any(1, keepdim=True))


def counted_text(texts: Sequence[str], spans: Tensor, has_text: Tensor) -> Tensor:
    """Which tokens a measure of predictions is of: the text that :func:`answered`
    leaves, but for a first token, which nothing predicts.

    Args:
        texts: B texts.
        spans: (B, T, 2) int64 [start, end) in characters.
        has_text: (B, T) bool, True on tokens that hold at least one character.

    Returns:
        (B, T - 1) bool, of tokens 1 to T - 1.
    """
    return answered(texts, spans, has_text, has_text)[:, 1:]
