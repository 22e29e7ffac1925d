"""What the teachers of a set know apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from student.evaluate import text_bits
from student.evaluators.base import BATCH, EvalContext, Measured, Metric, need_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Diversity:
    """Who reads which texts best, and what the best one of every text would save.

    In bits per character of whole texts, so that tokenizers may differ.

    Source:
        Correlation of errors and the gain of an oracle, Kuncheva and Whitaker, Machine
        Learning 51, 2003, here of bits per character in place of right and wrong. A
        text's difficulty, the mean over teachers, is taken away before the correlation:
        -1 / (M - 1) is what M teachers without anything in common have.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "oracle_saving": Metric("%", "higher"),
        "reads_best": Metric("%", "neither"),
        "error_correlation": Metric("", "lower"),
    }
    of_teachers: ClassVar[bool] = True

    def __call__(self, ctx: EvalContext) -> Measured:
        """By domain, by teacher, and by pair of teachers."""
        need_text(ctx, "diversity")
        if len(ctx.teachers) < 2:
            return Measured({}, ["diversity: takes two teachers or more"])
        each = {
            name: text_bits(t.capture, t.encode, ctx.samples, BATCH)
            for name, t in ctx.teachers.items()
        }
        bits = np.array([[bits for bits, _ in rows] for rows in each.values()])
        chars = np.array([[chars for _, chars in rows] for rows in each.values()])
        domains = [sample.domain for sample in ctx.samples]
        return Measured(diversity(list(each), bits, chars, domains))


def diversity(
    names: Sequence[str],
    bits: NDArray[np.float64],
    chars: NDArray[np.int64],
    domains: Sequence[str],
) -> dict[str, dict[str, float]]:
    """The metrics of :class:`Diversity`.

    Args:
        names: of M teachers.
        bits: (M, N) of every text.
        chars: (M, N) that were predicted.
        domains: of N texts.
    """
    known = (chars > 0).all(0)
    rates = bits[:, known] / chars[:, known]
    weight, where = chars[:, known].min(0), np.array(domains)[known]
    best = rates.argmin(0)
    saved = {}
    for domain in dict.fromkeys(where.tolist()):
        there = where == domain
        alone = (rates[:, there] * weight[there]).sum(1).min()
        oracle = (rates[:, there].min(0) * weight[there]).sum()
        saved[domain] = float(100 * (1 - oracle / alone))
    apart = rates - rates.mean(0)
    correlation = {
        f"{names[a]}/{names[b]}": _correlation(apart[a], apart[b])
        for a, b in combinations(range(len(names)), 2)
    }
    shares = {name: float(100 * (best == m).mean()) for m, name in enumerate(names)}
    return {
        "oracle_saving": saved,
        "reads_best": shares,
        "error_correlation": correlation,
    }


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size else 0.0
