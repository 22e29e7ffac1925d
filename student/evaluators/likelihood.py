"""What a model finds likely: bits per character, perplexity, and calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from align.errors import InputError
from align.tokens.answered import counted_text
from align.tokens.batch import TokenBatch
from student.evaluate import bits_and_chars, bits_per_char, per_text
from student.evaluators.base import (
    BATCH,
    EvalContext,
    Measured,
    Metric,
    by_domain,
    need_text,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BitsPerChar:
    """Bits per character, see :func:`student.evaluate.bits_per_char`."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "bits_per_char": Metric("bits/char", "lower")
    }
    of_teachers: ClassVar[bool] = False

    def __call__(self, ctx: EvalContext) -> Measured:
        """By domain."""
        need_text(ctx, "bits_per_char")
        subject = ctx.subject
        batches = -(-len(ctx.samples) // BATCH)

        def shown(items):  # type: ignore[no-untyped-def]
            return ctx.progress(items, batches, f"measuring {subject.name}")

        bits = bits_per_char(subject.capture, subject.encode, ctx.samples, BATCH, shown)
        return Measured({"bits_per_char": bits})


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """Perplexity per token of the model's own.

    Models of several vocabularies are not compared by it: whose tokens are longer has
    the higher one for the same text.

    Source:
        exp of the mean negative log-likelihood over the tokens that hold text, the
        first of a text left out where it stands for none; see
        :func:`student.evaluate.bits_and_chars`.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {"perplexity": Metric("", "lower")}
    of_teachers: ClassVar[bool] = False

    def __call__(self, ctx: EvalContext) -> Measured:
        """By domain; a domain's tokens weigh alike."""
        need_text(ctx, "perplexity")

        def costs(logits: Tensor, batch: TokenBatch) -> list[tuple[float, float]]:
            bits, _ = bits_and_chars(logits, batch)
            counted = counted_text(batch.texts, batch.spans, batch.has_text)
            tokens = counted.sum(1)
            return list(zip(bits.tolist(), tokens.tolist(), strict=True))

        subject = ctx.subject
        each = per_text(subject.capture, subject.encode, ctx.samples, costs, BATCH)
        sums = by_domain(ctx.samples, each)
        return Measured(
            {
                "perplexity": {
                    domain: _exp(bits * math.log(2) / _some(tokens, domain))
                    for domain, (bits, tokens) in sums.items()
                }
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Whether a model is right as often as it is sure.

    Source:
        Expected calibration error, Guo et al., "On Calibration of Modern Neural
        Networks", ICML 2017: bins of equal width by the probability of the likeliest
        next token, |accuracy - mean probability| weighted by tokens. A probability on
        a border counts in the bin below it.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "calibration_error": Metric("", "lower"),
        "top1_accuracy": Metric("", "higher"),
        "confidence": Metric("", "neither"),
    }
    of_teachers: ClassVar[bool] = False

    bins: int = 15
    """Bins of confidence, >= 1."""

    def __post_init__(self) -> None:
        """Check the number of bins.

        Raises:
            InputError: it is below 1.
        """
        if self.bins < 1:
            raise InputError(f"bins is {self.bins}; give 1 or more")

    def __call__(self, ctx: EvalContext) -> Measured:
        """By domain; a domain's tokens weigh alike."""
        need_text(ctx, "calibration")
        subject, bins = ctx.subject, self.bins

        def binned(logits: Tensor, batch: TokenBatch) -> list[list[float]]:
            counted = counted_text(batch.texts, batch.spans, batch.has_text)
            return [
                _binned(row[:-1][known], ids[1:][known], bins)
                for row, ids, known in zip(logits, batch.ids, counted, strict=True)
            ]

        each = per_text(subject.capture, subject.encode, ctx.samples, binned, BATCH)
        values: dict[str, dict[str, float]] = {name: {} for name in self.metrics}
        for domain, sums in by_domain(ctx.samples, each).items():
            count, sure, right = torch.tensor(sums).double().view(3, bins)
            total = _some(float(count.sum()), domain)
            values["calibration_error"][domain] = float((right - sure).abs().sum())
            values["calibration_error"][domain] /= total
            values["top1_accuracy"][domain] = float(right.sum()) / total
            values["confidence"][domain] = float(sure.sum()) / total
        return Measured(values)


def _binned(logits: Tensor, following: Tensor, bins: int) -> list[float]:
    """(N, V) -> tokens, sum of confidence and right answers of every bin, in a row."""
    sums = torch.zeros(3, bins, dtype=torch.float64)
    if not len(logits):
        return sums.flatten().tolist()
    confidence, said = logits.float().softmax(-1).max(-1)
    confidence = confidence.double().cpu()
    right = (said == following).double().cpu()
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    for row, numbers in enumerate((torch.ones_like(right), confidence, right)):
        sums[row].index_add_(0, place, numbers)
    return sums.flatten().tolist()


def _some(tokens: float, domain: str) -> float:
    if not tokens:
        raise InputError(
            f"domain {domain!r} has no token to predict: its texts are empty or one "
            "token long; give longer held-out text"
        )
    return tokens


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
