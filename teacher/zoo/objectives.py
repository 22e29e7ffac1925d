"""Turn token streams into training batches: next token, masked token, spans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORE = -100
"""The label transformers' losses leave out."""
MASKED = 0.15
"""Share of tokens that are masked (BERT) or cut out (T5)."""
MEAN_SPAN = 3
"""Mean length of a span cut out, tokens (T5)."""

Batch = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The ids an objective needs."""

    size: int
    first: int
    """The first id after the special ones."""
    bos: int
    eos: int
    mask: int | None
    sentinels: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
        """Read the ids off a zoo tokenizer."""
        ids = tokenizer.get_vocab()
        sentinels = (ids.get(f"<extra_id_{i}>") for i in range(len(ids)))
        sentinel_ids = []
        for sentinel in sentinels:
            if sentinel is None:
                break
            sentinel_ids.append(sentinel)
        special = (
            tokenizer.bos_token_id,
            tokenizer.pad_token_id,
            tokenizer.mask_token_id,
        )
        return cls(
            size=len(tokenizer),
            first=1 + max(i for i in special if i is not None),
            bos=tokenizer.bos_token_id,
            eos=tokenizer.eos_token_id,
            mask=tokenizer.mask_token_id,
            sentinels=tuple(sentinel_ids),
        )


def windows(
    stream: Tensor, length: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Cut a stream into windows, shuffled and shifted anew in every epoch.

    Args:
        stream: (N,) int64, N > length.
        length: tokens per window.
        generator: draws shifts and orders.

    Yields:
        (length,) int64, without end.
    """
    while True:
        shift = int(torch.randint(length, (), generator=generator))
        shift = min(shift, len(stream) - length)
        count = (len(stream) - shift) // length
        rows = stream[shift : shift + count * length].view(count, length)
        for index in torch.randperm(count, generator=generator):
            yield rows[index]


def next_token(rows: Tensor, vocabulary: Vocabulary, lead: bool) -> Batch:
    """Predict each token from those before it.

    Args:
        rows: (B, T) int64.
        vocabulary: its bos takes the first place of rows that lead with one.
        lead: True for bos in every row; False for every second row, so that a
            model whose tokenizer adds no bos can do with or without.
    """
    rows = rows.clone()
    step = 1 if lead else 2
    rows[::step] = torch.cat(
        [torch.full_like(rows[::step, :1], vocabulary.bos), rows[::step, :-1]], dim=1
    )
    return {"input_ids": rows, "labels": rows}


def masked_token(
    rows: Tensor, vocabulary: Vocabulary, generator: torch.Generator
) -> Batch:
    """Hide 15 % of the tokens and ask for them, between [CLS] and [SEP].

    Source:
        Devlin et al. 2019 (arXiv:1810.04805): of those chosen 80 % become the mask,
        10 % a random token, 10 % stay.
    """
    if vocabulary.mask is None:
        raise ValueError("masked-token training needs a tokenizer with a mask token")
    rows = rows.clone()
    rows[:, 0], rows[:, -1] = vocabulary.bos, vocabulary.eos
    hidden = torch.rand(rows.shape, generator=generator) < MASKED
    hidden[:, 0] = hidden[:, -1] = False
    labels = rows.masked_fill(~hidden, IGNORE)
    fate = torch.rand(rows.shape, generator=generator)
    random_tokens = torch.randint(
        vocabulary.first, vocabulary.size, rows.shape, generator=generator
    )
    inputs = torch.where(hidden & (fate < 0.8), vocabulary.mask, rows)
    inputs = torch.where(hidden & (fate >= 0.9), random_tokens, inputs)
    return {"input_ids": inputs, "labels": labels}


def span_corruption(
    rows: Tensor, vocabulary: Vocabulary, generator: torch.Generator
) -> Batch:
    """Replace spans by sentinels and ask for what stood there.

    Every row loses as many tokens in as many spans, so a batch needs no padding.

    Source:
        Raffel et al. 2020 (arXiv:1910.10683): 15 % of tokens, mean span 3.
    """
    length = rows.shape[1]
    noise = max(1, round(length * MASKED))
    spans = max(1, min(round(noise / MEAN_SPAN), len(vocabulary.sentinels) - 1))
    inputs, labels = [], []
    for row in rows.tolist():
        cut = _partition(noise, spans, generator)
        kept = _partition(length - noise, spans + 1, generator)
        source: list[int] = []
        target: list[int] = []
        at = 0
        for index in range(spans):
            sentinel = vocabulary.sentinels[index]
            source += [*row[at : at + kept[index]], sentinel]
            at += kept[index]
            target += [sentinel, *row[at : at + cut[index]]]
            at += cut[index]
        inputs.append([*source, *row[at:], vocabulary.eos])
        labels.append([*target, vocabulary.sentinels[spans], vocabulary.eos])
    return {"input_ids": torch.tensor(inputs), "labels": torch.tensor(labels)}


def _partition(total: int, parts: int, generator: torch.Generator) -> list[int]:
    """Split a number into that many random addends, each at least one."""
    order = torch.randperm(total - 1, generator=generator)[: parts - 1] + 1
    edges = [0, *sorted(order.tolist()), total]
    return [b - a for a, b in pairwise(edges)]
