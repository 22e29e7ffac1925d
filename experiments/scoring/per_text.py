"""Numbers of every text of a batch, in bits per character."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from align.tokens.answered import counted_chars, counted_text
from align.tokens.batch import TokenBatch
from align.views import ForetoldTokens
from student.output import common_chunks


def entropy(logits: Tensor, batch: TokenBatch) -> Tensor:
    """How many bits a model expects to need for each character of a text.

    Args:
        logits: (B, T, V) float, position t predicts token t + 1.
        batch: the tokens it read.

    Returns:
        (B,) float64; NaN where no character is predicted.

    Source:
        Shannon's entropy of p(. | what was read), summed over the tokens that
        :func:`student.evaluate.bits_and_chars` counts, over the characters it counts.
    """
    nats = [
        -(row.exp() * row).sum(-1)
        for row in (x.float().log_softmax(-1) for x in logits[:, :-1])
    ]
    return _per_char(torch.stack(nats) if nats else logits.new_zeros(0, 0), batch)


def divergence(
    student: Tensor, teacher: Tensor, batch: TokenBatch, tokens: TokenBatch
) -> Tensor:
    """KL(student || teacher) of what comes, of one vocabulary.

    Args:
        student: (B, T, V) logits.
        teacher: (B, T', V') logits; ids that only one of both has are left out.
        batch: the student's tokens.
        tokens: the teacher's.

    Returns:
        (B,) float64, bits per character; NaN where the two read the text in other
        tokens, or no character is predicted.

    Source:
        Kullback and Leibler (1951), sum of p_S log(p_S / p_T).
    """
    size = min(student.shape[-1], teacher.shape[-1])
    length = min(batch.ids.shape[1], tokens.ids.shape[1])
    theirs_here = tokens.to(batch.ids.device)
    apart = [not _same(batch, theirs_here, row) for row in range(len(batch.ids))]
    rows = []
    for mine, theirs in zip(student, teacher, strict=True):
        p, q = (
            x[: length - 1, :size].float().log_softmax(-1)
            for x in (mine, theirs.to(mine.device))
        )
        rows.append((p.exp() * (p - q)).sum(-1))
    cut = TokenBatch(
        batch.ids[:, :length],
        batch.mask[:, :length],
        batch.spans[:, :length],
        batch.texts,
    )
    nats = torch.stack(rows) if rows else student.new_zeros(0, 0)
    unknown = torch.tensor(apart, dtype=torch.bool, device=nats.device)
    return _per_char(nats, cut).masked_fill(unknown, math.nan)


def _same(batch: TokenBatch, tokens: TokenBatch, row: int) -> bool:
    """Whether all tokens of a text that hold some of it are the same; of an end-of-text
    token behind it only one of both may know."""
    sides = [
        (each.ids[row][each.mask[row]], each.has_text[row][each.mask[row]])
        for each in (batch, tokens)
    ]
    shared = min(len(ids) for ids, _ in sides)
    rest = any(bool(text[shared:].any()) for _, text in sides)
    first, second = (ids[:shared] for ids, _ in sides)
    return not rest and torch.equal(first, second)


def spread(heard: Sequence[ForetoldTokens], count: int) -> Tensor:
    """How far teachers are apart on what a text holds.

    Args:
        heard: how likely each of M teachers found its own tokens of the B texts.
        count: B.

    Returns:
        (B,) float64, bits per character: the standard deviation over teachers of the
        log-likelihood of every stretch that all of them end a token with, summed over
        a text's stretches, over their characters. NaN where fewer than two teachers
        speak, or no stretch is common to all.
    """
    unknown = torch.full((count,), math.nan, dtype=torch.float64)
    if len(heard) < 2:
        return unknown
    chunks = common_chunks([each.tokens for each in heard])
    if not len(chunks):
        return unknown
    nats = torch.stack(
        [
            side.sum(each.log_probs.to(chunks.text.device).double())
            for side, each in zip(chunks.sides, heard, strict=True)
        ],
        -1,
    )
    apart = nats.std(-1, correction=0)
    zero = apart.new_zeros(count)
    total = zero.index_add(0, chunks.text, apart)
    chars = zero.index_add(0, chunks.text, chunks.characters.double())
    return torch.where(chars > 0, total / chars / math.log(2), math.nan).cpu()


def _per_char(nats: Tensor, batch: TokenBatch) -> Tensor:
    """Sum (B, T - 1) nats over the tokens that hold text, and divide."""
    if batch.ids.shape[1] < 2:
        return torch.full((len(batch.ids),), math.nan, dtype=torch.float64)
    counted = counted_text(batch.texts, batch.spans, batch.has_text)
    bits = torch.where(counted, nats, 0.0).double().sum(1) / math.log(2)
    begin = batch.spans[:, 1:, 0].masked_fill(~counted, torch.iinfo(torch.int64).max)
    end = batch.spans[:, 1:, 1].masked_fill(~counted, 0).amax(1)
    start = torch.maximum(begin.amin(1), batch.spans[:, 0, 1])
    chars = counted_chars(batch.texts, start, end)
    return torch.where(counted.any(1), bits / chars, math.nan)
