"""Which kinds of text a model reads worse, and worse than its teachers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from align.text.documents import TextSample
from student.evaluate import text_bits
from student.evaluators.base import BATCH, EvalContext, Measured, Metric, need_text

LENGTHS = ("short", "middle", "long")
WORDS = ("frequent words", "mixed words", "rare words")


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """Bits per character by kinds of text: its domain, its length, how rare its words
    are.

    Thirds of the texts, of every domain apart, by characters and by the mean log
    frequency of their words in all of the held-out text. With teachers also how many
    bits more the model needs than the teacher who reads that kind best.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "bits_by_kind": Metric("bits/char", "lower"),
        "lost_by_kind": Metric("bits/char", "lower"),
    }
    of_teachers: ClassVar[bool] = False

    def __call__(self, ctx: EvalContext) -> Measured:
        """By domain, and by ``domain, kind``."""
        need_text(ctx, "errors")
        kinds = kinds_of(ctx.samples)
        student_bits = _bits(ctx, ctx.subject.name, kinds)
        values = {"bits_by_kind": student_bits}
        theirs = [
            _bits(ctx, name, kinds) for name in ctx.teachers if name != ctx.subject.name
        ]
        if theirs:
            values["lost_by_kind"] = {
                kind: bits - min(of_teacher[kind] for of_teacher in theirs)
                for kind, bits in student_bits.items()
            }
        return Measured(values)


def _bits(
    ctx: EvalContext, name: str, kinds: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    model = ctx.subject if name == ctx.subject.name else ctx.teachers[name]
    costs = text_bits(model.capture, model.encode, ctx.samples, BATCH)
    by_kind = {}
    for kind, places in kinds.items():
        chars = sum(costs[place][1] for place in places)
        if chars:
            by_kind[kind] = sum(costs[place][0] for place in places) / chars
    return by_kind


def kinds_of(samples: Sequence[TextSample]) -> dict[str, list[int]]:
    """Places of the texts of every kind; a domain of under three texts is but one."""
    words = [re.findall(r"\w+", sample.text.lower()) for sample in samples]
    counts = Counter(word for of_text in words for word in of_text)
    total = max(counts.total(), 1)
    rare = [
        -float(np.mean([np.log(counts[w] / total) for w in of_text]))
        if of_text
        else 0.0
        for of_text in words
    ]
    kinds: dict[str, list[int]] = {}
    for domain in dict.fromkeys(sample.domain for sample in samples):
        places = [i for i, sample in enumerate(samples) if sample.domain == domain]
        kinds[domain] = places
        if len(places) < 3:
            continue
        lengths = [len(samples[i].text) for i in places]
        for names, scores in ((LENGTHS, lengths), (WORDS, [rare[i] for i in places])):
            for name, third in zip(names, _thirds(scores), strict=True):
                kinds[f"{domain}, {name}"] = [places[i] for i in third]
    return kinds


def _thirds(scores: Sequence[float]) -> list[NDArray[np.int64]]:
    return np.array_split(np.argsort(scores, kind="stable"), 3)
