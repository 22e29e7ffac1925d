"""How well a language model reads held-out text, in bits per character."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from align.errors import InputError
from align.kv import KV
from align.text.documents import TextSample
from align.tokens.answered import counted_chars, counted_text
from align.tokens.batch import TokenBatch
from align.views import Capture

T = TypeVar("T")

Encode = Callable[[Sequence[str]], TokenBatch]
"""Texts to one padded batch."""


def bits_and_chars(logits: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """What each text costs and how long the part that was predicted is.

    A character is predicted when a token after the first holds it. The first token
    of a text is free where the model has a begin-of-text token, because that token
    holds no text; elsewhere its characters are left out on both sides. Of a prompt with
    its completion the completion alone is counted.

    Args:
        logits: (B, T, V) float, position t predicts token t + 1.
        batch: the tokens that were read.

    Returns:
        Bits (B,) float64 and characters (B,) int64.

    Source:
        Bits per character: negative log2-likelihood of the text over its length,
        comparable between tokenizers where a loss per token is not.
    """
    if logits.shape[1] < 2:
        empty = torch.zeros(logits.shape[0], dtype=torch.float64, device=logits.device)
        return empty, empty.long()
    counted = counted_text(batch.texts, batch.spans, batch.has_text)
    # A text at a time stays in the processor's cache, with the vocabulary in a row.
    nll = torch.stack(
        [
            F.cross_entropy(row.float(), following, reduction="none")
            for row, following in zip(logits[:, :-1], batch.ids[:, 1:], strict=True)
        ]
    )
    bits = torch.where(counted, nll, 0.0).double().sum(1) / math.log(2)
    begin = batch.spans[:, 1:, 0].masked_fill(~counted, torch.iinfo(torch.int64).max)
    first = batch.spans[:, 0, 1]  # 0 for a begin-of-text token
    end = batch.spans[:, 1:, 1].masked_fill(~counted, 0).amax(1)
    start = torch.maximum(begin.amin(1), first)
    chars = counted_chars(batch.texts, start, end)
    return bits, torch.where(counted.any(1), chars, 0)


def text_bits(
    capture: Capture,
    encode: Encode,
    samples: Sequence[TextSample],
    batch_size: int = 16,
    progress: Callable[[Iterable], Iterable] = lambda batches: batches,
    *,
    threads: int = 1,
) -> list[tuple[float, int]]:
    """Bits and predicted characters of every text, in the order of ``samples``.

    Arguments as :func:`bits_per_char`.
    """

    def costs(logits: Tensor, batch: TokenBatch) -> list[tuple[float, int]]:
        bits, chars = bits_and_chars(logits, batch)
        return list(zip(bits.tolist(), chars.tolist(), strict=True))

    return per_text(
        capture, encode, samples, costs, batch_size, progress=progress, threads=threads
    )


def per_text(
    capture: Capture,
    encode: Encode,
    samples: Sequence[TextSample],
    measure: Callable[[Tensor, TokenBatch], Sequence[T]],
    batch_size: int = 16,
    progress: Callable[[Iterable], Iterable] = lambda batches: batches,
    *,
    threads: int = 1,
) -> list[T]:
    """What is measured of a model's logits on every text, in the order of ``samples``.

    Args:
        capture: see :func:`bits_per_char`, as the others not named here.
        encode: see there.
        samples: see there.
        measure: from logits (B, T, V), of which position t predicts token t + 1, and
            the tokens that were read to one thing a text.
        batch_size: see there.
        progress: see there.
        threads: see there.
    """
    measured: dict[int, T] = {}
    ordered = sorted(range(len(samples)), key=lambda i: len(samples[i].text))
    starts = range(0, len(ordered), batch_size)
    chunks = [ordered[start : start + batch_size] for start in starts]

    @torch.no_grad()
    def read(chunk: Sequence[int]) -> Sequence[T]:
        batch = encode([samples[i].text for i in chunk])
        captured = capture(batch.ids, batch.mask, layers=(0,), logits=True)
        assert captured.logits is not None
        return measure(captured.logits, batch)

    for chunk, each in progress(zip(chunks, _each(read, chunks, threads), strict=True)):
        measured.update(zip(chunk, each, strict=True))
    return [measured[i] for i in range(len(samples))]


def _each(
    read: Callable[[Sequence[int]], T], chunks: Sequence[Sequence[int]], threads: int
) -> Iterator[T]:
    """What is read of each, in order, by so many threads."""
    if threads == 1:
        yield from map(read, chunks)
        return
    # A new thread begins with PyTorch's own number of threads.
    settings = (torch.get_num_threads(),)
    with ThreadPoolExecutor(
        threads, "measuring", initializer=torch.set_num_threads, initargs=settings
    ) as pool:
        yield from pool.map(read, chunks)


def bits_per_char(
    capture: Capture,
    encode: Encode,
    samples: Sequence[TextSample],
    batch_size: int = 16,
    progress: Callable[[Iterable], Iterable] = lambda batches: batches,
    *,
    threads: int = 1,
) -> dict[str, float]:
    """Bits per character of each domain.

    Args:
        capture: the model.
        encode: its tokenizer, truncating to what the model can read.
        samples: held-out texts.
        batch_size: texts per forward pass.
        progress: wraps the batches, for a progress bar.
        threads: batches that are read at once; the numbers are the same.

    Returns:
        One entry per domain, in order of appearance; a domain's texts weigh by
        their length.

    Raises:
        ValueError: no sample of a domain holds a character to predict.
    """
    bits: dict[str, float] = {}
    chars: dict[str, int] = {}
    costs = text_bits(capture, encode, samples, batch_size, progress, threads=threads)
    for sample, (b, c) in zip(samples, costs, strict=True):
        bits[sample.domain] = bits.get(sample.domain, 0.0) + b
        chars[sample.domain] = chars.get(sample.domain, 0) + c
    for domain, count in chars.items():
        if not count:
            raise InputError(
                f"domain {domain!r} has no character to predict: its texts are empty "
                "or one token long; give longer held-out text"
            )
    return {domain: bits[domain] / chars[domain] for domain in bits}


@dataclass(frozen=True, slots=True)
class KVHealth:
    """Whether keys and values are spread out or have collapsed."""

    std_k: float
    """Standard deviation over tokens, root mean square over channels and layers."""
    std_v: float
    rank_k: float
    """Effective rank over tokens, mean over layers."""
    rank_v: float


@torch.no_grad()
def kv_health(kv: KV, most: int | None = None) -> KVHealth:
    """Measure spread and effective rank of the keys and values of real tokens.

    Args:
        kv: (L, B, H, T, D).
        most: read only so many of the tokens, evenly spaced; None reads all.

    Source:
        Effective rank: exp of the entropy of the normalised singular values, Roy and
        Vetterli, EUSIPCO 2007.
    """
    k, v = kv.flat()
    chosen = kv.mask.nonzero()
    if most is not None:
        chosen = chosen[:: -(-len(chosen) // most)]
    rows, places = chosen.unbind(1)
    (std_k, rank_k), (std_v, rank_v) = (_spread(x[:, rows, places]) for x in (k, v))
    return KVHealth(std_k, std_v, rank_k, rank_v)


def _spread(x: Tensor) -> tuple[float, float]:
    """(L, N, C) -> standard deviation, effective rank."""
    centred = (x - x.float().mean(1, keepdim=True)).double()
    # Eigenvalues of the smaller product are the squared singular values, at less cost.
    wide = x.shape[1] < x.shape[2]
    product = centred @ centred.mT if wide else centred.mT @ centred
    if not bool(product.isfinite().all()):
        return math.nan, math.nan
    singular = torch.linalg.eigvalsh(product).clamp_min(0).sqrt()
    share = singular / singular.sum(1, keepdim=True).clamp_min(1e-12)
    entropy = -torch.special.xlogy(share, share).sum(1)
    return float(centred.square().mean().sqrt()), float(entropy.exp().mean())
