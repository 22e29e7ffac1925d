"""Terms that compare next-token distributions, each an objective by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from align.output import Output
from student.objective import OUTPUTS, Objective, StepContext, Term
from student.output import (
    HeadInput,
    chunk_likelihood,
    hybrid,
    linear_divergence,
    linear_log_likelihood,
    linear_top_tokens,
    logit_geometry,
    sequence_transport,
    shared_chunks,
    support_sizes,
    token_transport,
)
from student.output_sides import LEAST, Side, compare, labels_of, sides_of
from student.outputs import Outputs


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
        return _zero(ctx)
    labels = labels_of(outputs) if outputs.config.hard_labels else None
    sides = sides_of(outputs, "kd")
    if len(sides) == 1:
        return compare(outputs, sides[0], labels)
    loss = _zero(ctx)
    if labels is not None:
        own = outputs.student
        hidden, block = own.hidden.flatten(0, 1), outputs.config.block
        loss = linear_divergence(hidden, own.head, [], labels=labels, block=block)
    if outputs.config.combine == "distributions" and sides:
        return loss + _from_mean(outputs, sides)
    return loss + _mean_over_sides(sides, ctx, lambda side: compare(outputs, side))


def hybrid_transport(ctx: StepContext) -> Tensor:
    """Transport between likeliest tokens beside the divergence over all of them.

    Moving mass from one token to another costs 1 - cos of their rows in the student's
    head, which both models share the numbering of.

    Source:
        :func:`student.output.token_transport` and :func:`student.output.hybrid`.
    """
    outputs = ctx.outputs
    if outputs is None:
        return _zero(ctx)
    alpha = outputs.config.ot_alpha

    def one(side: Side) -> Tensor:
        transport = _transport(outputs, side) if alpha > 0 else _zero(ctx)
        apart = compare(outputs, side) if alpha < 1 else _zero(ctx)
        return hybrid(transport, apart, alpha)

    return _mean_over_sides(sides_of(outputs, "hybrid_ot"), ctx, one)


def sequence_matching(ctx: StepContext) -> Tensor:
    """Least cost of matching the tokens of two readings, compared as logits.

    Source:
        :func:`student.output.sequence_transport`; the mean over texts, and over
        teachers by their mean weight in the batch.
    """
    outputs = ctx.outputs
    total, weight = _zero(ctx), _zero(ctx)
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
    total, weight = _zero(ctx), _zero(ctx)
    if outputs is None:
        return total
    config, own = outputs.config, outputs.student
    student = _label_log_probs(own, config.block)
    for taught in outputs.of("likelihood"):
        chunks = shared_chunks(own.tokens, taught.output.tokens)
        with torch.no_grad():
            teacher = _label_log_probs(taught.output, config.block)
        share = taught.weight.flatten()[chunks.student.last]
        total = total + chunk_likelihood(
            student,
            teacher,
            chunks,
            form=config.likelihood_form,  # type: ignore[arg-type]  # checked there
            temperature=config.likelihood_temperature,
            weight=share,
            reduction="sum",
        )
        weight = weight + share.sum()
    return total / weight.clamp_min(LEAST)


OUTPUT_OBJECTIVES: Mapping[str, Callable[[], Objective]] = {
    "kd": lambda: Term(distillation, frozenset({OUTPUTS})),
    "hybrid_ot": lambda: Term(hybrid_transport, frozenset({OUTPUTS})),
    "sequence_ot": lambda: Term(sequence_matching, frozenset({OUTPUTS})),
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


def _mean_over_sides(
    sides: list[Side], ctx: StepContext, term: Callable[[Side], Tensor]
) -> Tensor:
    """Mean of one loss a teacher, by what the teacher's tokens weigh together."""
    total, weight = _zero(ctx), _zero(ctx)
    for side in sides:
        own = side.weight.sum()
        total, weight = total + own * term(side), weight + own
    return total / weight.clamp_min(LEAST)


def _transport(outputs: Outputs, side: Side) -> Tensor:
    """Mean cost over the places that weigh something."""
    config, own = outputs.config, outputs.student
    rows = side.weight.nonzero()[:, 0]
    size = min(own.head.size, side.teacher.head.size)
    student = linear_top_tokens(
        own.hidden.flatten(0, 1)[rows], own.head.first(size), config.ot_top_k
    )
    with torch.no_grad():
        teacher = linear_top_tokens(
            side.teacher.hidden[rows], side.teacher.head.first(size), config.ot_top_k
        )
    if config.ot_adaptive:
        sizes = support_sizes(teacher.entropy, teacher.ids.shape[1])
        student, teacher = student.limited(sizes), teacher.limited(sizes)
    vectors = own.head.weight.detach()
    return token_transport(
        student,
        teacher,
        vectors,
        vectors,
        student_temperature=config.temperature,
        teacher_temperature=config.temperature,
        weight=side.weight[rows],
    ).loss


def _label_log_probs(output: Output, block: int) -> Tensor:
    """(B, T) log-probability of every token after those before it; 0 for the first."""
    real = output.tokens.mask.clone()
    real[:, :1] = False
    before = real.roll(-1, 1)  # the first place is never real, so nothing wraps
    found = linear_log_likelihood(
        output.hidden[before], output.head, output.tokens.ids[real], block
    )
    return found.new_zeros(real.shape).masked_scatter(real, found)


def _zero(ctx: StepContext) -> Tensor:
    return ctx.logits.new_zeros((), dtype=torch.float32)
