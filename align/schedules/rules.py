"""How a number moves from one value to another as steps are taken.

Sources:
    Half a cosine: Loshchilov and Hutter 2017, SGDR (arXiv 1608.03983), as in PyTorch's
    ``CosineAnnealingLR``. Equal factors and stairs: its ``ExponentialLR`` and
    ``StepLR``. Warm-up, plateau and decay: Hu et al. 2024, MiniCPM (arXiv 2404.06395).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from align.errors import InputError
from align.support.field_types import AtLeastOne, Count, ShareAboveZero

if TYPE_CHECKING:
    from torch import Tensor

Curve = Literal["linear", "exponential", "cosine"]


OTHERWISE = (
    "this rule moves a temperature of next-token outputs alone (output.temperature, or "
    "that of a term on outputs); choose one of steps, or loss, entropy, spread, gap or "
    "difficulty"
)


def _no_teacher() -> Tensor:
    raise InputError(f"no teacher's entropy is known here; {OTHERWISE}")


def _no_gradients() -> tuple[float, float]:
    raise InputError(f"no gradients are known here; {OTHERWISE}")


def _no_sizes() -> tuple[int, int]:
    raise InputError(f"no two models' sizes are known here; {OTHERWISE}")


def _no_logits() -> tuple[Tensor, Tensor]:
    raise InputError(f"no logits are known here; {OTHERWISE}")


def _no_gap() -> Tensor:
    raise InputError(f"no teacher's loss is known here; {OTHERWISE}")


def _no_outputs(temperature: float) -> tuple[float, float]:
    raise InputError(f"no outputs are known here; {OTHERWISE}")


def _no_domains() -> Tensor:
    raise InputError(
        "no domains are known here; choose a rule of steps, or loss, entropy or spread"
    )


def _no_losses(term: str) -> float:
    raise InputError("no losses are known here; choose a rule of steps")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moment:
    """What a number may depend on. What costs a pass is asked for by calling."""

    start: float
    """The schedule's ``from``."""
    end: float
    """Its ``to``."""
    progress: float
    """0 at the phase's first step, 1 from ``steps`` on."""
    vocabulary: int = 0
    """V, tokens that are compared; 0 where the number is no temperature of outputs, and
    of a rule marked with :func:`reads` the teachers', of several the geometric mean."""
    teacher_entropy: Callable[[], Tensor] = _no_teacher
    """(N,) float, nats, of the teacher's distribution at temperature 1; () for a number
    that is no temperature of outputs, as are the next two: the mean so far over tokens,
    asked only by a rule marked with :func:`reads`."""
    signal_to_noise: Callable[[], tuple[float, float]] = _no_gradients
    """Of the gradients to the student's hidden states, over tokens: the squared length
    of their mean over their variance; of the distance at ``start``, and of the
    cross-entropy with the labels."""
    step: int = 0
    """Optimiser steps taken in this phase."""
    steps: int = 0
    """Those in which ``end`` is reached."""
    parameters: Callable[[], tuple[int, int]] = _no_sizes
    """How many the student has, and the teacher."""
    logit_spread: Callable[[], tuple[Tensor, Tensor]] = _no_logits
    """(N,) float each, the standard deviation over tokens of the student's logits, and
    of the teacher's."""
    loss_gap: Callable[[], Tensor] = _no_gap
    """(N,) float, nats: by how much more the student loses than the teacher per stretch
    of text that both spell with whole tokens, over the texts of the place's domain."""
    at_temperature: Callable[[float], tuple[float, float]] = _no_outputs
    """From a temperature to the teacher's entropy, and to KL(student || teacher), nats,
    both the mean over places by weight."""
    kept: Callable[[str], float] = _no_losses
    """What is left of a term's loss, by the term's name, as a share of its first size;
    asked only by a rule marked with :func:`reads_losses`."""
    difficulty: Callable[[], Tensor] = _no_domains
    """How hard the place's domain is for the student, as ``loss.domain_signal`` says,
    (N,) float >= 0; () for a number that is no temperature of outputs: the mean over
    domains. 0 before anything is known; asked only by a rule marked with
    ``reads("domains")``."""


if TYPE_CHECKING:
    Rule = Callable[..., float | Tensor]
else:  # a config is read without torch
    Rule = Callable[..., Any]
"""From a :class:`Moment` to one number, or (N,) of one a place; what it takes beside
that, by keyword, are its options."""


def constant(moment: Moment) -> float:
    """Always ``start``."""
    return moment.start


def linear(moment: Moment) -> float:
    """In equal steps from ``start`` to ``end``."""
    return _on("linear", moment.start, moment.end, moment.progress)


def exponential(moment: Moment) -> float:
    """By equal factors from ``start`` to ``end``."""
    return _on("exponential", moment.start, moment.end, moment.progress)


def cosine(moment: Moment) -> float:
    """Along half a cosine from ``start`` to ``end``, slow at both ends."""
    return _on("cosine", moment.start, moment.end, moment.progress)


def step(moment: Moment, *, count: AtLeastOne = 1, curve: Curve = "linear") -> float:
    """In ``count`` jumps, equally far apart, onto a curve from ``start`` to ``end``.

    ``curve: exponential`` jumps by equal factors, as ``StepLR`` does.
    """
    if moment.step >= moment.steps:
        return moment.end
    stair = moment.step * count // moment.steps
    return _on(curve, moment.start, moment.end, stair / count)


def three_part(
    moment: Moment,
    *,
    peak: float = 1.0,
    warmup: Count = 0,
    decay: Count | None = None,
    up: Curve = "linear",
    down: Curve = "cosine",
) -> float:
    """From ``start`` up to ``peak``, a plateau, and down to ``end``.

    Args:
        moment: when.
        peak: the value of the plateau.
        warmup: steps before it; the first is one of ``warmup + 1`` parts away from
            ``start`` already, so that no step is spent on a rate of 0.
        decay: the last steps; None: all after the warm-up.
        up: the curve of the warm-up.
        down: the curve of the decay.
    """
    if moment.step < warmup:
        return _on(up, moment.start, peak, (moment.step + 1) / (warmup + 1))
    falling = max(1, moment.steps - warmup) if decay is None else decay
    begun = moment.step - (moment.steps - falling if decay is not None else warmup)
    if begun < 0:
        return peak
    return _on(down, peak, moment.end, min(1.0, begun / falling) if falling else 1.0)


NEEDED = {"three_part": ("peak",)}
"""Options that a config has to say, by rule: what is usual of a weight would be a
learning rate of 1."""


def _on(curve: Curve, start: float, end: float, share: float) -> float:
    """The place on a curve after a share, 0 to 1, of the way."""
    if curve == "linear":
        return start + (end - start) * share
    if curve == "exponential":
        return float(start * (end / start) ** share)
    return end + (start - end) * ((1 + math.cos(math.pi * share)) / 2)


LOSSES = "losses"
"""The sizes of the terms so far, as something that a rule needs."""
SIGNALS = frozenset({"teacher_entropy", "logit_spread", "loss_gap"})
"""Fields of :class:`Moment` that a rule of any number may need: means over tokens."""


def reads(*needs: str) -> Callable[[Rule], Rule]:
    """Mark a rule as one that asks for some of ``SIGNALS``, for any number."""

    def marked(rule: Rule) -> Rule:
        rule.needs = frozenset(needs)  # type: ignore[attr-defined]
        return rule

    return marked


def reads_losses(rule: Rule) -> Rule:
    """Mark a rule as one that asks for :attr:`Moment.kept`."""
    return reads(LOSSES)(rule)


DOMAINS = "domains"
"""How hard domains are so far, likewise."""


def needs_domains(rule: Rule) -> bool:
    """Whether the difficulty of domains is kept count of for a rule."""
    return DOMAINS in getattr(rule, "needs", ())


def needs_losses(rule: Rule) -> bool:
    """Whether losses are kept count of for a rule."""
    return LOSSES in getattr(rule, "needs", ())


def signals_of(rule: Rule) -> frozenset[str]:
    """Which of ``SIGNALS`` a rule asks for."""
    return SIGNALS & frozenset(getattr(rule, "needs", ()))


@reads_losses
def loss(
    moment: Moment,
    *,
    of: str = "ce",
    fall: ShareAboveZero = 0.5,
    curve: Curve = "linear",
) -> float:
    """Along a curve from ``start`` to ``end`` as a loss falls, back where it rises.

    Args:
        moment: when.
        of: the term whose loss it is; ``ce`` is the next token's.
        fall: the share of its first size that it has lost where ``end`` is reached.
        curve: the way between.
    """
    way = min(max((1 - moment.kept(of)) / fall, 0.0), 1.0)
    return _on(curve, moment.start, moment.end, way)


def problem_of(
    rule: str, start: float, end: float, steps: int | None, options: Mapping[str, Any]
) -> str:
    """What is wrong between a built-in rule and its numbers; empty if nothing."""
    if rule == "three_part" and steps is not None:
        rise, fall = options.get("warmup", 0), options.get("decay") or 0
        if rise + fall > steps:
            return (
                f"warms up for {rise} steps and falls for {fall}, of {steps} in all; "
                "give more steps, or shorter parts"
            )
    curves: dict[str, list[tuple[Any, Any, Any]]] = {
        "exponential": [("exponential", start, end)],
        "step": [(options.get("curve"), start, end)],
        "loss": [(options.get("curve"), start, end)],
        "three_part": [
            (options.get("up"), start, options.get("peak", 1.0)),
            (options.get("down"), options.get("peak", 1.0), end),
        ],
    }
    for curve, first, last in curves.get(rule, []):
        if curve == "exponential" and not min(first, last) > 0:
            return (
                f"goes by equal factors from {first} to {last}; give two numbers > 0, "
                "or another curve"
            )
    return ""


RULES: Mapping[str, Rule] = {
    "constant": constant,
    "linear": linear,
    "exponential": exponential,
    "cosine": cosine,
    "step": step,
    "three_part": three_part,
    "loss": loss,
}
"""Those for any number, which look at nothing of teachers, by name."""
