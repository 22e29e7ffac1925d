"""Terms that compare next-token distributions, each an objective by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from student.objective import OUTPUTS, Objective, StepContext, Term
from student.output import (
    HeadInput,
    hybrid,
    linear_divergence,
    logit_geometry,
    sequence_transport,
)
from student.output.terms.likeliest_tokens import moved
from student.output.terms.same_vocabulary import (
    LEAST,
    Side,
    compare,
    labels_of,
    sides_of,
)
from student.output.terms.shared_text import (
    Stretches,
    label_log_probs,
    likelihood_of,
    projected_of,
    stretches_of,
    transport_of,
)
from student.output.terms.step_outputs import Outputs


def distillation(ctx: StepContext) -> Tensor:
    """Divergence from teachers of the student's vocabulary, with hard labels if asked.

    Source:
        Hinton, Vinyals and Dean 2015 (arXiv 1503.02531); the divergences are those of
        :mod:`student.output.row_divergence`. Several teachers: the mean over tokens and
        teachers by weight, or the divergence from the weighted mean of their
        distributions.
    """
    outputs = ctx.outputs
    if outputs is None:
        return ctx.zero()
    labels = labels_of(outputs) if outputs.config.hard_labels else None
    sides = sides_of(outputs, outputs.of("kd"))
    if len(sides) == 1:
        return compare(outputs, sides[0], labels)
    loss = ctx.zero()
    if labels is not None:
        own = outputs.student
        hidden, block = own.hidden.flatten(0, 1), outputs.config.block
        loss = linear_divergence(hidden, own.head, [], labels=labels, block=block)
    if outputs.config.combine == "distributions" and sides:
        return loss + _from_mean(outputs, sides)
    each = [(compare(outputs, side), side.weight.sum()) for side in sides]
    return loss + _mean(each, ctx)


def hybrid_transport(ctx: StepContext) -> Tensor:
    """Transport between likeliest tokens beside a distance over all there is.

    From a teacher of the student's vocabulary: moving mass from one token to another
    costs 1 - cos of their rows in the student's head, and the divergence over the whole
    vocabulary stands beside it. From any other: 1 - cos of the tokens' spellings, and
    the likelihood of stretches of text.

    Source:
        :func:`student.output.token_transport` and :func:`student.output.hybrid`.
    """
    outputs = ctx.outputs
    if outputs is None:
        return ctx.zero()
    alpha = outputs.config.ot_alpha
    taught = outputs.of("hybrid_ot")
    alike = [one for one in taught if outputs.speaks_alike(one)]
    parts = []
    for side in sides_of(outputs, alike):
        transport = _transport(outputs, side) if alpha > 0 else ctx.zero()
        apart = compare(outputs, side) if alpha < 1 else ctx.zero()
        parts.append((hybrid(transport, apart, alpha), side.weight.sum()))
    others = [one for one in taught if not outputs.speaks_alike(one)]
    student = None
    if others and alpha < 1:
        student = label_log_probs(outputs.student, outputs.config.block)
    for stretches in stretches_of(outputs, others):
        weight = stretches.weight.sum()
        parts.append((_across(ctx, outputs, stretches, student), weight))
    return _mean(parts, ctx)


def sequence_matching(ctx: StepContext) -> Tensor:
    """Least cost of matching the tokens of two readings, compared as logits.

    Source:
        :func:`student.output.sequence_transport`; the mean over texts, and over
        teachers by their mean weight in the batch.
    """
    outputs = ctx.outputs
    total, weight = ctx.zero(), ctx.zero()
    if outputs is None:
        return total
    own = outputs.student
    for taught in outputs.of("sequence_ot"):
        share = taught.weight.mean()
        other = taught.output
        cost = sequence_transport(
            own.hidden,
            other.hidden,
            own.tokens.has_text,
            other.tokens.has_text,
            cost=outputs.config.sequence_cost,  # type: ignore[arg-type]  # checked there
            geometry=logit_geometry(own.head, other.head),
        )
        total, weight = total + share * cost, weight + share
    return total / weight.clamp_min(LEAST)


def text_likelihood(ctx: StepContext) -> Tensor:
    """Distance between the probabilities of stretches of text, across vocabularies.

    See :func:`student.output.chunk_likelihood`; the mean over stretches and teachers by
    the teachers' weights at the student's last token of each stretch.
    """
    outputs = ctx.outputs
    if outputs is None or not outputs.of("likelihood"):
        return ctx.zero()
    student = label_log_probs(outputs.student, outputs.config.block)
    ends = outputs.config.likelihood_ends == "blanks"
    total, weight = ctx.zero(), ctx.zero()
    for stretches in stretches_of(outputs, outputs.of("likelihood"), ends):
        total = total + likelihood_of(outputs, stretches, student, ends)
        weight = weight + stretches.weight.sum()
    return total / weight.clamp_min(LEAST)


def projected_kl(ctx: StepContext) -> Tensor:
    """Divergence over the pieces that two vocabularies have in common.

    See :func:`student.output.projected_divergence`; the mean over places and teachers
    by the teachers' weights.
    """
    outputs = ctx.outputs
    if outputs is None or not outputs.of("projected_kl"):
        return ctx.zero()
    config = outputs.config
    student = None
    if config.projected_chains:
        student = label_log_probs(outputs.student, config.block)
    total, weight = ctx.zero(), ctx.zero()
    for stretches in stretches_of(outputs, outputs.of("projected_kl")):
        total = total + projected_of(outputs, stretches, student)
        weight = weight + stretches.weight[stretches.places(outputs)[0]].sum()
    return total / weight.clamp_min(LEAST)


OUTPUT_OBJECTIVES: Mapping[str, Callable[[], Objective]] = {
    "kd": lambda: Term(distillation, frozenset({OUTPUTS})),
    "hybrid_ot": lambda: Term(hybrid_transport, frozenset({OUTPUTS})),
    "sequence_ot": lambda: Term(sequence_matching, frozenset({OUTPUTS})),
    "projected_kl": lambda: Term(projected_kl, frozenset({OUTPUTS})),
    "likelihood": lambda: Term(text_likelihood, frozenset({OUTPUTS})),
}
"""The built-in terms on outputs by name."""


def _from_mean(outputs: Outputs, sides: list[Side]) -> Tensor:
    """Divergence from the teachers' weighted mean."""
    weights = torch.stack([side.weight for side in sides])
    shares = (weights / weights.sum(0).clamp_min(LEAST)).log()
    mixed = [
        HeadInput(side.teacher.hidden, side.teacher.head, share)
        for side, share in zip(sides, shares, strict=True)
    ]
    first = sides[0]
    whole = Side("their mean", first.teacher, weights.sum(0), first.entropy)
    return compare(outputs, whole, teachers=mixed)


def _mean(parts: Sequence[tuple[Tensor, Tensor]], ctx: StepContext) -> Tensor:
    """Mean of one loss a teacher, by what the teacher's places weigh together."""
    total, weight = ctx.zero(), ctx.zero()
    for loss, own in parts:
        total, weight = total + own * loss, weight + own
    return total / weight.clamp_min(LEAST)


def _across(
    ctx: StepContext, outputs: Outputs, stretches: Stretches, student: Tensor | None
) -> Tensor:
    """:func:`hybrid_transport` from one teacher of another vocabulary.

    ``student``: (B, T_s) from :func:`label_log_probs`; None where transport is all.
    """
    alpha = outputs.config.ot_alpha
    transport = transport_of(outputs, stretches) if alpha > 0 else ctx.zero()
    apart = ctx.zero()
    if student is not None:
        apart = likelihood_of(outputs, stretches, student, ends=False)
        apart = apart / stretches.weight.sum().clamp_min(LEAST)
    return hybrid(transport, apart, alpha)


def _transport(outputs: Outputs, side: Side) -> Tensor:
    """Mean cost over the places that weigh something."""
    own, teacher = outputs.student, side.teacher
    rows = side.weight.nonzero()[:, 0]
    size = min(own.head.size, teacher.head.size)
    vectors = own.head.weight.detach()
    return moved(
        outputs.config,
        HeadInput(own.hidden.flatten(0, 1)[rows], own.head.first(size)),
        HeadInput(teacher.hidden[rows], teacher.head.first(size)),
        (vectors, vectors),
        side.weight[rows],
    )
