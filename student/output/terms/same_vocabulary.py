"""A teacher of the student's vocabulary beside it, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from align.errors import InputError
from student.output import (
    Divergence,
    HeadInput,
    Labels,
    Support,
    linear_divergence,
    linear_log_likelihood,
    linear_top_tokens,
)
from student.output.pairing import after
from student.output.temperature import Moment, gradient_signal_to_noise
from student.output.terms.step_outputs import Outputs, Taught


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A teacher of the student's vocabulary at the student's places."""

    name: str
    teacher: HeadInput
    """Hidden states (N, C_t), N = B * T_s."""
    weight: Tensor
    """(N,) float32 >= 0, 0 where the two do not predict the same token."""
    entropy: Callable[[], Tensor]
    """(N,) nats, of the teacher's next-token distribution; costs a pass."""


def sides_of(outputs: Outputs, taught: Sequence[Taught]) -> list[Side]:
    """Some teachers, by routing weight or by their own confidence.

    Raises:
        ValueError: a teacher has another vocabulary.
    """
    sides = [_side(outputs, one) for one in taught]
    if outputs.config.weighting == "routing" or len(sides) < 2:
        return sides
    weights = torch.stack([side.weight for side in sides])
    scores = torch.stack([_confidence(outputs, side) for side in sides])
    shares = scores.masked_fill(weights == 0, -math.inf).softmax(0).nan_to_num(0.0)
    shares = shares * weights.sum(0)
    return [
        replace(side, weight=share) for side, share in zip(sides, shares, strict=True)
    ]


def compare(
    outputs: Outputs,
    side: Side,
    total: Tensor | float,
    labels: Labels | None = None,
    teachers: Sequence[HeadInput] | None = None,
) -> Tensor:
    """Divergence of the student from one teacher, or from several's mean.

    Args:
        outputs: the student's side and the settings.
        side: weights, and what the temperature may look at.
        total: what the sum over places by weight is divided by.
        labels: cross-entropy from the same logits.
        teachers: in place of the side's own.
    """
    config, own = outputs.config, outputs.student
    settings = Divergence(
        config.divergence, config.mix, Support(config.top_k, config.threshold)
    )
    return linear_divergence(
        own.hidden.flatten(0, 1),
        own.head,
        teachers or [side.teacher],
        settings,
        temperature=_temperature(outputs, side, settings),
        weight=side.weight,
        total=total,
        labels=labels,
        block=config.block,
    )


def labels_of(outputs: Outputs, weight: float, total: float | None = None) -> Labels:
    """The student's next tokens, weighing ``weight`` over ``total``; None: over all."""
    tokens, config = outputs.student.tokens, outputs.config
    each = after(tokens.predicted.float()).flatten()
    each = each * (weight / (each.sum().clamp_min(1) if total is None else total))
    return Labels(after(tokens.ids).flatten(), each, config.label_smoothing)


def _side(outputs: Outputs, taught: Taught) -> Side:
    other = taught.output
    if not outputs.speaks_alike(taught):
        raise InputError(
            f"teacher {taught.name!r} has another vocabulary than the student, so its "
            "distribution over tokens means something else; use output.likelihood, or "
            "leave it out of output.teachers"
        )
    pairing = outputs.pairing(taught)
    hidden = other.hidden.flatten(0, 1)[pairing.same.flatten().clamp_min(0)]
    weight = pairing.told(taught.weight)
    teacher = HeadInput(hidden, other.head)

    def entropy() -> Tensor:
        found = linear_top_tokens(hidden, other.head, 1, outputs.config.block)
        return found.entropy

    return Side(taught.name, teacher, weight, entropy)


@torch.no_grad()
def _confidence(outputs: Outputs, side: Side) -> Tensor:
    """(N,) log of how sure a teacher is; a softmax over teachers makes weights of it.

    Source:
        Confidence from cross-entropy with the labels: Zhang et al. 2022, CA-MKD (arXiv
        2201.00007), which takes 1 - softmax(loss) where this takes softmax(-loss);
        entropy and greatest probability need no label.
    """
    kind, block = outputs.config.weighting, outputs.config.block
    hidden, head = side.teacher.hidden, side.teacher.head
    if kind == "cross_entropy":
        ids = after(outputs.student.tokens.ids).flatten()
        return linear_log_likelihood(hidden, head, ids, block)
    best = linear_top_tokens(hidden, head, 1, block)
    if kind == "entropy":
        return -best.entropy
    return best.logits[:, 0] - best.log_total


def _temperature(outputs: Outputs, side: Side, settings: Divergence) -> float | Tensor:
    config = outputs.config

    def signal_to_noise() -> tuple[float, float]:
        return _signal_to_noise(outputs, side, settings)

    moment = Moment(
        config.temperature,
        config.temperature_end,
        min(outputs.step / config.temperature_steps, 1.0),
        min(outputs.student.head.size, side.teacher.head.size),
        side.entropy,
        signal_to_noise,
    )
    return outputs.temperature(moment)


def _signal_to_noise(
    outputs: Outputs, side: Side, settings: Divergence
) -> tuple[float, float]:
    """Of the gradients to the student's hidden states: divergence, cross-entropy."""
    own, config = outputs.student, outputs.config
    hidden = own.hidden.detach().flatten(0, 1).requires_grad_()
    head = replace(
        own.head,
        weight=own.head.weight.detach(),
        bias=None if own.head.bias is None else own.head.bias.detach(),
    )
    labels = labels_of(outputs, 1.0)
    found = []
    with torch.enable_grad():
        for teachers, hard in (([side.teacher], None), ([], labels)):
            loss = linear_divergence(
                hidden,
                head,
                teachers,
                settings,
                temperature=config.temperature,
                weight=side.weight,
                labels=hard,
                block=config.block,
            )
            (gradient,) = torch.autograd.grad(loss, hidden)
            weight = side.weight if hard is None else labels.weight
            found.append(gradient_signal_to_noise(gradient, weight))
    return found[0], found[1]
