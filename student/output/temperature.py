"""How flat distributions are made before they are compared.

Sources:
    The schedules: annealed distillation, Jafari et al. 2021 (arXiv 2104.07163), which
    lowers the temperature step by step; here by three curves. By entropy, by vocabulary
    and by signal-to-noise: rules of this project, defined below; each keeps within the
    two temperatures that the config gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moment:
    """What a temperature may depend on. What costs a pass is asked for by calling."""

    start: float
    """The config's ``output.temperature``, > 0."""
    end: float
    """The config's ``output.temperature_end``, > 0."""
    progress: float
    """0 at the phase's first step, 1 from ``output.temperature_steps`` on."""
    vocabulary: int
    """V, tokens that are compared."""
    teacher_entropy: Callable[[], Tensor]
    """(N,) float, nats, of the teacher's distribution at temperature 1."""
    signal_to_noise: Callable[[], tuple[float, float]]
    """Of the gradients to the student's hidden states, over tokens: the squared length
    of their mean over their variance; of the distance at ``start``, and of the
    cross-entropy with the labels."""


Temperature = Callable[[Moment], float | Tensor]
"""One temperature, or (N,) of one a row, > 0."""


def constant(moment: Moment) -> float:
    """Always ``start``."""
    return moment.start


def linear(moment: Moment) -> float:
    """In equal steps from ``start`` to ``end``."""
    return moment.start + (moment.end - moment.start) * moment.progress


def exponential(moment: Moment) -> float:
    """By equal factors from ``start`` to ``end``."""
    return moment.start * (moment.end / moment.start) ** moment.progress


def cosine(moment: Moment) -> float:
    """Along half a cosine from ``start`` to ``end``, slow at both ends."""
    share = (1 + math.cos(math.pi * moment.progress)) / 2
    return moment.end + (moment.start - moment.end) * share


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


SCHEDULES = ("constant", "linear", "exponential", "cosine")
"""The built-in rules that give all teachers and tokens of a step one temperature."""

TEMPERATURES: Mapping[str, Temperature] = {
    "constant": constant,
    "linear": linear,
    "exponential": exponential,
    "cosine": cosine,
    "entropy": by_entropy,
    "vocabulary": by_vocabulary,
    "signal_to_noise": by_signal_to_noise,
}
"""The built-in rules by name."""


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
