"""What an evaluator promises, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from align.errors import InputError
from align.text.documents import TextSample
from align.views import Capture
from student.evaluate import Encode

WHOLE = "all"
"""The part of a metric that has but one number."""
BATCH = 16
"""Texts per forward pass."""

Values = Mapping[str, Mapping[str, float]]
"""By metric and part: a domain, a teacher, a batch size, or ``WHOLE``."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number means."""

    unit: str
    """Such as ``bits/char`` or ``%``; empty for a plain number."""
    better: Literal["lower", "higher", "neither"]
    """Which of two models is the better one by it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """A model that predicts text as evaluators meet it, in evaluation mode."""

    name: str
    model: Any
    """A causal ``PreTrainedModel``, or an encoder-decoder."""
    capture: Capture
    """The same, seen from inside."""
    tokenizer: Any
    encode: Encode
    """Its tokenizer, to batches on the model's device, cut at what it may read."""
    max_tokens: int | None = None
    """Positions that it has; None where nothing limits them."""
    folder: Path | None = None
    """Where its files lie; None where that is not known."""
    exits: Mapping[int, Tensor] | None = None
    """Its heads of lower layers, see :mod:`student.evaluators.exits`, where no folder
    holds them yet; None: the folder says."""

    @property
    def writes_targets(self) -> bool:
        """Whether it is an encoder-decoder: it reads a source and writes a target."""
        return bool(getattr(self.model.config, "is_encoder_decoder", False))

    def not_asked(self, evaluator: str) -> Measured:
        """What an evaluator says that has a decoder go on with one text."""
        return Measured(
            {},
            [
                f"{evaluator} is not measured of {self.name}: it has a model go on "
                "with a text, and an encoder-decoder writes another one"
            ],
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """What is asked, and the right answer."""

    prompt: str
    completion: str
    domain: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EvalContext:
    """One model to be measured, and by what."""

    subject: Subject
    """The model."""
    teachers: Mapping[str, Subject] = field(default_factory=dict)
    """Models that it is compared with, by name; none of them has to be there."""
    samples: Sequence[TextSample] = ()
    """Held-out text."""
    pairs: Sequence[Pair] = ()
    """Questions with answers; where there are none, evaluators make some of the text.
    """
    seed: int = 0
    """Of whatever is drawn."""
    progress: Callable[[Iterable, int, str], Iterable] = lambda items, count, title: (
        items
    )
    """Shows how far some items are: the items, their number, a title."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        where: torch.device = next(self.subject.model.parameters()).device
        return where

    @property
    def domains(self) -> list[str]:
        """Of the held-out text, in order of appearance."""
        return list(dict.fromkeys(sample.domain for sample in self.samples))


@dataclass(frozen=True, slots=True)
class Measured:
    """What an evaluator found."""

    values: Values
    notes: Sequence[str] = ()
    """Sentences on what was not measured, and why."""
    samples: Sequence[Mapping[str, str]] = ()
    """Texts for the report: ``domain``, ``prompt``, ``written``, ``reference``."""


class Evaluator(Protocol):
    """Measures models; a plugin of the kind ``evaluator``."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Every metric that it may return, by name."""

    @property
    def of_teachers(self) -> bool:
        """Whether it measures the teachers as a set, and not each model by itself."""

    def __call__(self, ctx: EvalContext) -> Measured:
        """Measure; the models stay as they are.

        Raises:
            InputError: the model or the text cannot be measured so at all.
        """


def mean_of(parts: Mapping[str, float]) -> float | None:
    """The one number that stands for a metric: the mean over its parts.

    Returns:
        None where nothing was measured.
    """
    return sum(parts.values()) / len(parts) if parts else None


def by_domain(
    samples: Sequence[TextSample], each: Iterable[Sequence[float]]
) -> dict[str, list[float]]:
    """Sums of what every text has, by domain in order of appearance."""
    sums: dict[str, list[float]] = {}
    for sample, numbers in zip(samples, each, strict=True):
        known = sums.setdefault(sample.domain, [0.0] * len(numbers))
        sums[sample.domain] = [a + b for a, b in zip(known, numbers, strict=True)]
    return sums


def need_text(ctx: EvalContext, name: str) -> None:
    """See that there is text.

    Raises:
        InputError: there is none.
    """
    if not ctx.samples:
        raise InputError(
            f"{name} reads held-out text, and there is none; give some by --data"
        )
