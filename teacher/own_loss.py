"""A teacher's own next-token loss, comparable between tokenizers.

Losses per token say nothing across tokenizers: a token may hold one byte or a
word. Divided by the characters predicted they do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from align.text.conversation import Conversation
from align.text.prompted import Prompted
from align.tokens.answered import counted_chars
from align.tokens.batch import TokenBatch


def next_token_nll(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood of every token given those before it.

    Args:
        logits: (B, T, V) float; position t predicts token t + 1.
        ids: (B, T) int64.
        mask: (B, T) bool, True on real tokens.

    Returns:
        (B, T) float32 in nats, the loss *of* token t at position t; 0 at t = 0,
        which nothing predicts, and on padding. Gradients flow to ``logits``.

    Raises:
        ValueError: the shapes do not belong together.

    Source:
        Cross-entropy, -log softmax(logits)[id], in float32.
    """
    if logits.shape[:-1] != ids.shape or mask.shape != ids.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)}, ids {tuple(ids.shape)} and mask "
            f"{tuple(mask.shape)} do not match; give (B, T, V), (B, T), (B, T)"
        )
    nll = torch.zeros(ids.shape, dtype=torch.float32, device=logits.device)
    if ids.shape[1] < 2:
        return nll
    rows = [  # row by row: a float32 copy of all logits may not fit
        functional.cross_entropy(row[:-1].float(), target[1:], reduction="none")
        for row, target in zip(logits, ids, strict=True)
    ]
    scored = torch.stack(rows) if rows else nll[:, 1:]
    return functional.pad(scored.masked_fill(~mask[:, 1:], 0.0), (1, 0))


def teacher_bits_per_char(logits: Tensor, batch: TokenBatch) -> Tensor:
    """Bits a decoder needs per character of each text.

    Args:
        logits: (B, T, V) float, of a causal model; a bidirectional model's say
            nothing here, as it has read what it predicts.
        batch: the tokens it read.

    Returns:
        (B,) float32 bits per character, over the characters after the first token
        (all of them where a special token comes first) up to the last token that
        holds text; ``inf`` where there are none. Of a conversation bits and characters
        are those of its contents: the tokens that end a turn are no text. Of a prompt
        with its completion they are those of the completion.

    Raises:
        ValueError: ``logits`` do not belong to ``batch``.

    Source:
        Sum of -log2 p over tokens, divided by characters (Graves, 2013).
    """
    return bits_per_char(next_token_nll(logits, batch.ids, batch.mask), batch)


def bits_per_char(nll: Tensor, batch: TokenBatch) -> Tensor:
    """:func:`teacher_bits_per_char` of losses that are known.

    Args:
        nll: (B, T) float32, from :func:`next_token_nll`.
        batch: the tokens that were read.
    """
    position = torch.arange(batch.ids.shape[1], device=nll.device)
    last = torch.where(batch.has_text, position, -1).amax(dim=1, keepdim=True)
    chats = [isinstance(text, Conversation) for text in batch.texts]
    plain = ~torch.tensor(chats, device=nll.device)[:, None]
    # Of a plain text also what holds no character of its own, such as a bare marker.
    counted = batch.predicted & (position <= last) & (plain | batch.has_text)
    bits = (nll * counted).sum(dim=1) / math.log(2)
    end = torch.where(batch.has_text, batch.spans[..., 1], 0).amax(dim=1)
    first = batch.spans[:, 0, 1] * batch.has_text[:, 0]
    if any(pairs := [isinstance(text, Prompted) for text in batch.texts]):
        completion = counted & batch.has_text
        most = torch.iinfo(torch.int64).max
        begin = batch.spans[..., 0].masked_fill(~completion, most).amin(dim=1)
        begin = torch.minimum(torch.maximum(begin, first), end)  # end: nothing is read
        first = torch.where(torch.tensor(pairs, device=nll.device), begin, first)
    chars = counted_chars(batch.texts, first, end)
    return torch.where(chars > 0, bits / chars.clamp(min=1), math.inf)
