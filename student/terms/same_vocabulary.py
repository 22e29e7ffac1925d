"""A teacher of the student's vocabulary beside it, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from align.errors import InputError
from align.tokens.weights import label_weight
from align.views import Head, LinearHead
from student.objective import LEAST
from student.output import (
    Divergence,
    HeadInput,
    Labels,
    Support,
    linear_divergence,
    linear_log_likelihood,
    linear_top_tokens,
    support_beside,
)
from student.output.across.pairing import after
from student.step_outputs import Outputs, Taught
from student.terms.signals import Spots
from student.terms.temperature import temperature_at


@dataclass(frozen=True, slots=True, eq=False)
class SameVocabularyTeacher:
    """A teacher of the student's vocabulary at the student's places."""

    taught: Taught
    """As it came; of several teachers' mean the first."""
    teacher: HeadInput
    """Hidden states (N, C_t), N = B * T_s."""
    weight: Tensor
    """(N,) float32 >= 0, 0 where the two do not predict the same token."""


def sides_of(outputs: Outputs, taught: Sequence[Taught]) -> list[SameVocabularyTeacher]:
    """Some teachers, by routing weight or by their own confidence.

    Raises:
        ValueError: a teacher has another vocabulary.
    """
    sides = [_side(outputs, teacher) for teacher in taught]
    if outputs.config.weighting == "routing" or len(sides) < 2:
        return sides
    weights = torch.stack([side.weight for side in sides])
    scores = torch.stack([_confidence(outputs, side) for side in sides])
    shares = scores.masked_fill(weights == 0, -math.inf).softmax(0).nan_to_num(0.0)
    shares = shares * weights.sum(0)
    return [
        replace(side, weight=share) for side, share in zip(sides, shares, strict=True)
    ]


@torch.no_grad()
def less_where_surprised(
    outputs: Outputs, side: SameVocabularyTeacher
) -> SameVocabularyTeacher:
    """A teacher that weighs less at tokens which it had not expected.

    Source:
        The token-adaptive weight ``β exp(-p)``, with p the teacher's probability of
        the token that came. That grows where the teacher is unsure, though it is said
        to trust a sure teacher more, and this does: ``exp(-surprise (1 - p))`` is 1
        at a token that was certain, so β stays the term's weight.
    """
    strength, head = outputs.number("surprise"), side.teacher.head
    if not strength:
        return side
    ids = after(outputs.student.tokens.ids).flatten()
    said = linear_log_likelihood(side.teacher.hidden, head, ids, outputs.config.block)
    trust = torch.exp(-strength * (1 - said.exp()))
    return replace(side, weight=side.weight * trust.to(side.weight))


def compare(
    outputs: Outputs,
    side: SameVocabularyTeacher,
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
    config, student = outputs.config, outputs.student
    return linear_divergence(
        student.hidden.flatten(0, 1),
        student.matrix,
        teachers or [side.teacher],
        _divergence(outputs, [t.head for t in teachers or [side.teacher]]),
        temperature=temperature_of(outputs, side),
        weight=side.weight,
        total=total,
        labels=labels,
        block=config.block,
    )


def labels_of(outputs: Outputs, weight: float, total: float | None = None) -> Labels:
    """The student's next tokens, weighing ``weight`` over ``total``; None: over all."""
    tokens, smoothing = outputs.student.tokens, outputs.number("label_smoothing")
    counted = label_weight(tokens)
    if outputs.by_token is not None:
        counted = counted * outputs.by_token
    each = after(counted).flatten()
    each = each * (weight / (each.sum().clamp_min(LEAST) if total is None else total))
    if outputs.by_text is not None:
        each = (each.view(counted.shape) * outputs.by_text[:, None]).flatten()
    return Labels(after(tokens.ids).flatten(), each, smoothing)


def _side(outputs: Outputs, taught: Taught) -> SameVocabularyTeacher:
    other = taught.output
    if not outputs.speaks_alike(taught):
        raise InputError(
            f"teacher {taught.name!r} has another vocabulary than the student, so its "
            "distribution over tokens means something else; use output.likelihood, or "
            "leave it out of output.teachers"
        )
    pairing = outputs.pairing(taught)
    hidden = other.hidden.flatten(0, 1)[pairing.same.flatten().clamp_min(0)]
    weight = pairing.same_next(taught.weight)
    teacher = HeadInput(hidden, other.head)

    return SameVocabularyTeacher(taught, teacher, weight)


@torch.no_grad()
def _confidence(outputs: Outputs, side: SameVocabularyTeacher) -> Tensor:
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


def temperature_of(outputs: Outputs, side: SameVocabularyTeacher) -> float | Tensor:
    """One temperature, or (N,), of the divergence and the transport from a teacher."""
    config = outputs.config

    def distance(hidden: Tensor, head: LinearHead) -> Tensor:
        return linear_divergence(
            hidden,
            head,
            [side.teacher],
            _divergence(outputs, [side.teacher.head]),
            temperature=config.start,
            weight=side.weight,
            total=1.0,
            block=config.block,
        )

    rows = torch.arange(len(side.weight), device=side.weight.device)
    spots = Spots(
        rows=rows,
        taught=side.taught,
        teacher=side.teacher,
        weight=side.weight,
        distance=distance,
    )
    return temperature_at(outputs, spots)


def _divergence(outputs: Outputs, heads: Sequence[Head]) -> Divergence:
    config = outputs.config
    support = Support(config.top_k, config.threshold)
    for head in heads:
        support = support_beside(head, support)
    return Divergence(config.divergence, config.mix, support)
