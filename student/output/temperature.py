"""How flat distributions are made before they are compared.

Sources:
    By steps: annealed distillation, Jafari et al. 2021 (arXiv 2104.07163), which
    lowers the temperature step by step; the curves are those of
    :mod:`align.schedules.rules`. By entropy, by vocabulary and by signal-to-noise:
    rules of this project, defined below; each keeps within the two temperatures that
    the config gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from align.errors import InputError
from align.schedules import RULES
from align.schedules import Moment as Moment
from align.schedules import Rule as Rule

Temperature = Rule
"""One temperature, or (N,) of one a row, > 0."""


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
        raise InputError("no vocabulary is known here; choose a rule of steps")
    scaled = moment.start * math.log(max(moment.vocabulary, 2)) / math.log(32_000)
    low, high = sorted((moment.start, moment.end))
    return min(max(scaled, low), high)


def by_signal_to_noise(moment: Moment) -> float:
    """Flatter where the distance's gradient is noisier than the labels'.

    ``start * sqrt(SNR of cross-entropy / SNR of the distance)``, within ``start`` and
    ``end``: flatter targets differ less from token to token.
    """
    distance, labels = moment.signal_to_noise()
    if not (distance > 0 and labels > 0):
        return moment.start
    low, high = sorted((moment.start, moment.end))
    return min(max(moment.start * math.sqrt(labels / distance), low), high)


TEMPERATURES: Mapping[str, Rule] = {
    **RULES,
    "entropy": by_entropy,
    "vocabulary": by_vocabulary,
    "signal_to_noise": by_signal_to_noise,
}
"""Every built-in rule by name: of steps, and of what outputs look like."""


def gradient_signal_to_noise(gradient: Tensor, weight: Tensor) -> float:
    """How much gradients of single tokens agree.

    Args:
        gradient: (N, C) float, of a mean loss to each token's vector.
        weight: (N,) float >= 0; tokens of 0 take no part.

    Returns:
        Squared length of their mean over their variance (summed over channels); inf
        where all are the same, 0 where there are fewer than two.
    """
    rows = gradient[weight > 0].double()
    if len(rows) < 2:
        return 0.0
    signal = float(rows.mean(0).square().sum())
    noise = float(rows.var(0).sum())
    if noise == 0:
        return math.inf if signal else 0.0
    return signal / noise
