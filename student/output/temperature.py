"""How flat distributions are made before they are compared.

Sources:
    By steps: annealed distillation, Jafari et al. 2021 (arXiv 2104.07163), which
    lowers the temperature step by step; the curves are those of
    :mod:`align.schedules.rules`. All others are defined below; each keeps within the
    two temperatures that the config gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

from annotated_types import Interval
from torch import Tensor

from align.errors import InputError
from align.schedules import RULES, reads
from align.schedules import Moment as Moment
from align.schedules import Rule as Rule
from align.schedules.rules import DOMAINS, OTHERWISE
from align.support.field_types import NotNegative, Positive

Tries = Annotated[int, Interval(ge=2)]
Temperature = Rule
"""One temperature, or (N,) of one a row, > 0."""
Sum = Callable[[Sequence[float]], list[float]]
"""Adds up numbers over processes."""


@reads("teacher_entropy")
def by_entropy(moment: Moment) -> Tensor:
    """``start`` where the teacher is sure, ``end`` where it knows nothing.

    In proportion to its entropy over log V, its largest possible one.
    """
    share = moment.teacher_entropy() / math.log(max(moment.vocabulary, 2))
    return moment.start + (moment.end - moment.start) * share.clamp(0, 1)


def by_vocabulary(moment: Moment) -> float:
    """``start`` for 32,000 tokens, growing with log V, never beyond ``end``.

    Logits of n equal rivals are log n below their sum: over more tokens the same share
    of the mass on the best one takes logits that lie further apart.
    """
    if not moment.vocabulary:
        raise InputError(f"no vocabulary is known here; {OTHERWISE}")
    scaled = moment.start * math.log(max(moment.vocabulary, 2)) / math.log(32_000)
    return _within(moment, scaled)


def by_signal_to_noise(moment: Moment) -> float:
    """Flatter where the distance's gradient is noisier than the labels'.

    ``start * sqrt(SNR of cross-entropy / SNR of the distance)``, within ``start`` and
    ``end``: flatter targets differ less from token to token.
    """
    distance, labels = moment.signal_to_noise()
    if not (distance > 0 and labels > 0):
        return moment.start
    return _within(moment, moment.start * math.sqrt(labels / distance))


def by_capacity(moment: Moment) -> float:
    """``start`` of a teacher of the student's size, growing with the root of the ratio
    of parameters, never beyond ``end``.

    Source:
        ``τ ∝ √(C_T / C_S)``; what it is in proportion to is left open there, and is
        ``start`` here.
    """
    student, teacher = moment.parameters()
    return _within(moment, moment.start * math.sqrt(teacher / student))


@reads("logit_spread")
def by_spread(
    moment: Moment, *, of: Literal["teacher", "student"] = "teacher"
) -> Tensor:
    """``start`` times the standard deviation of the logits, within ``start`` and
    ``end``: a model that speaks louder is not thereby surer.

    Args:
        moment: when.
        of: whose logits.

    Source:
        ``τ √var(z)``. Logits divided by it have a spread of 1 / τ, as long as the two
        limits do not hold it back.
    """
    student, teacher = moment.logit_spread()
    spread = moment.start * (teacher if of == "teacher" else student)
    low, high = sorted((moment.start, moment.end))
    return spread.clamp(low, high)


@reads("loss_gap")
def by_gap(moment: Moment, *, scale: Positive = 1.0) -> Tensor:
    """``start`` in domains in which the student predicts as well as the teacher,
    ``end`` where it loses ``scale`` nats more.

    Args:
        moment: when.
        scale: nats per stretch of text that both spell with whole tokens: of one
            vocabulary, per token.
    """
    share = (moment.loss_gap() / scale).clamp(0, 1)
    return moment.start + (moment.end - moment.start) * share


@reads(DOMAINS)
def by_difficulty(moment: Moment, *, scale: Positive = 1.0) -> Tensor:
    """``start`` in domains that are not hard at all, ``end`` in those whose difficulty
    is ``scale``, in proportion between.

    Args:
        moment: when.
        scale: in the unit of ``loss.domain_signal``.

    Source:
        Seed table 3-76: temperature, weights and learning rate by the difficulty of the
        task; what they are in proportion to is left open there.
    """
    share = (moment.difficulty() / scale).clamp(0, 1)
    return moment.start + (moment.end - moment.start) * share


def balanced(moment: Moment, *, beta: NotNegative = 1.0, count: Tries = 9) -> float:
    """Of some temperatures the one with the largest ``H(p_T) - beta · KL(p_S || p_T)``:
    targets that still say much, and that the student can still follow.

    Args:
        moment: when.
        beta: how much the divergence counts.
        count: temperatures tried, equal factors apart from ``start`` to ``end``; of
            equally good ones the first.
    """
    factor = (moment.end / moment.start) ** (1 / (count - 1))
    tried = [moment.start * factor**index for index in range(count - 1)]
    best, chosen = -math.inf, moment.start
    for temperature in [*tried, moment.end]:
        entropy, divergence = moment.at_temperature(temperature)
        score = entropy - beta * divergence
        if score > best:
            best, chosen = score, temperature
    return chosen


def _within(moment: Moment, temperature: float) -> float:
    low, high = sorted((moment.start, moment.end))
    return min(max(temperature, low), high)


TEMPERATURES: Mapping[str, Rule] = {
    **RULES,
    "entropy": by_entropy,
    "vocabulary": by_vocabulary,
    "signal_to_noise": by_signal_to_noise,
    "capacity": by_capacity,
    "spread": by_spread,
    "gap": by_gap,
    "difficulty": by_difficulty,
    "balanced": balanced,
}
"""Every built-in rule by name: for any number, and by what outputs look like."""


def gradient_signal_to_noise(
    gradient: Tensor, weight: Tensor, total: Sum = list
) -> float:
    """How much gradients of single tokens agree.

    Args:
        gradient: (N, C) float, of a sum of losses to each token's vector.
        weight: (N,) float >= 0; tokens of 0 take no part.
        total: adds up numbers over processes, which must all come here.

    Returns:
        Squared length of their mean over their variance (summed over channels), over
        the tokens of all processes; inf where all are the same, 0 where there are fewer
        than two.
    """
    rows = gradient[weight > 0].double()
    count, *sums = total([float(len(rows)), *rows.sum(0).tolist()])
    mean = rows.new_tensor(sums) / max(count, 1.0)
    (apart,) = total([float((rows - mean).square().sum())])
    if count < 2:
        return 0.0
    signal, noise = float(mean.square().sum()), apart / (count - 1)
    if noise == 0:
        return math.inf if signal else 0.0
    return signal / noise
