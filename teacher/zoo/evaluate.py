"""Measure a zoo model on the text that nobody trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from teacher.zoo.objectives import IGNORE, Vocabulary, span_corruption
from teacher.zoo.recipes import ZooModel
from teacher.zoo.text import DOMAINS, cut_text, zoo_documents

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

BATCH = 16
"""Samples per forward pass."""
SAMPLE_CHARS = 512
"""Characters per sample, as :func:`teacher.zoo.zoo_samples` cuts them."""
WINDOW = 96
"""Tokens of a sample that a masked-token or span model reads."""


@torch.no_grad()
def held_out(
    recipe: ZooModel,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, float]:
    """Measure bits per character on each domain's eval split.

    A next-token model pays for every character of a sample, read after a bos; the
    others pay for the characters of the tokens they restore, so their numbers
    compare with each other's progress but not with a next-token model's.

    Args:
        recipe: names the objective and the number of samples, which are spread
            over the split.
        model: in evaluation mode.
        tokenizer: its own.

    Returns:
        Bits per character by domain.
    """
    measure = {
        "next-token": _next_token_bits,
        "masked-token": _masked_bits,
        "span-corruption": _span_bits,
    }[recipe.train.objective]
    result = {}
    for domain in DOMAINS:
        documents = zoo_documents(domain, "eval")
        texts = [p for _, text in documents for p in cut_text(text, SAMPLE_CHARS)]
        count = min(recipe.eval_samples, len(texts))
        spread = [texts[i * len(texts) // count] for i in range(count)]
        nats, chars = measure(model, tokenizer, spread)
        result[domain] = nats / math.log(2) / max(chars, 1)
    return result


def _next_token_bits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> tuple[float, int]:
    texts = sorted(texts, key=len)
    bos, nats = tokenizer.bos_token_id, 0.0
    for start in range(0, len(texts), BATCH):
        encodings = tokenizer.backend_tokenizer.encode_batch(
            texts[start : start + BATCH], add_special_tokens=False
        )
        rows = [torch.tensor([bos, *e.ids]) for e in encodings]
        pad = torch.nn.utils.rnn.pad_sequence
        # Right padding is never seen by what stands before it.
        ids = pad(rows, batch_first=True, padding_value=bos)
        labels = pad(rows, batch_first=True, padding_value=IGNORE)
        limit = getattr(model.config, "max_position_embeddings", ids.shape[1])
        if ids.shape[1] > limit:
            ids, labels = _windows(ids, labels, limit)
        nats += _sum_nll(model(input_ids=ids).logits[:, :-1], labels[:, 1:])
    return nats, sum(map(len, texts))


def _windows(ids: Tensor, labels: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Cut rows longer than the model's positions; a cut costs its first token.

    Every further window starts with the last token of the one before, so each
    token is predicted once.
    """
    starts = range(0, ids.shape[1] - 1, limit - 1)
    pieces = [(ids[:, s : s + limit], labels[:, s : s + limit]) for s in starts]
    width = max(piece.shape[1] for piece, _ in pieces)
    fill = torch.nn.functional.pad
    return (
        torch.cat([fill(i, (0, width - i.shape[1])) for i, _ in pieces]),
        torch.cat([fill(j, (0, width - j.shape[1]), value=IGNORE) for _, j in pieces]),
    )


def _masked_bits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> tuple[float, int]:
    ids, lengths = _equal_rows(tokenizer, texts)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(ids.shape, generator=generator) < 0.15
    hidden &= lengths > 0
    labels = ids.masked_fill(~hidden, IGNORE)
    inputs = ids.masked_fill(hidden, tokenizer.mask_token_id)
    nats = 0.0
    for start in range(0, len(ids), BATCH):
        part = slice(start, start + BATCH)
        nats += _sum_nll(model(input_ids=inputs[part]).logits, labels[part])
    return nats, int(lengths[hidden].sum())


def _span_bits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> tuple[float, int]:
    ids, lengths = _equal_rows(tokenizer, texts)
    vocabulary = Vocabulary.of(tokenizer)
    # Corrupting places instead of tokens tells afterwards which were cut out.
    places = torch.arange(ids.numel()).view(ids.shape) + vocabulary.size
    generator = torch.Generator().manual_seed(0)
    batch = span_corruption(places, vocabulary, generator)
    inputs = _tokens_at(batch["input_ids"], ids, vocabulary.size)
    targets = _tokens_at(batch["labels"], ids, vocabulary.size)
    cut_out = batch["labels"] >= vocabulary.size
    nats = 0.0
    for start in range(0, len(ids), BATCH):
        part = slice(start, start + BATCH)
        logits = model(input_ids=inputs[part], labels=targets[part]).logits
        nats += _sum_nll(logits, targets[part].masked_fill(~cut_out[part], IGNORE))
    cut_places = batch["labels"][cut_out] - vocabulary.size
    return nats, int(lengths.flatten()[cut_places].sum())


def _tokens_at(places: Tensor, ids: Tensor, first: int) -> Tensor:
    tokens = ids.flatten()[(places - first).clamp(min=0)]
    return torch.where(places >= first, tokens, places)


def _equal_rows(
    tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> tuple[Tensor, Tensor]:
    """Take WINDOW tokens of every sample long enough: ids and their characters."""
    encodings = tokenizer.backend_tokenizer.encode_batch(texts)
    kept = [e for e in encodings if len(e.ids) >= WINDOW]
    ids = torch.tensor([e.ids[:WINDOW] for e in kept]).view(-1, WINDOW)
    spans = torch.tensor([e.offsets[:WINDOW] for e in kept]).view(-1, WINDOW, 2)
    return ids, spans[..., 1] - spans[..., 0]


def _sum_nll(logits: Tensor, labels: Tensor) -> float:
    flat = logits.float().flatten(0, 1)
    loss = cross_entropy(flat, labels.flatten(), ignore_index=IGNORE, reduction="sum")
    return float(loss)
