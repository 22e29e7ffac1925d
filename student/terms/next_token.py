"""Terms that compare next-token distributions, each an objective by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from align.tokens.answered import speaking
from align.tokens.batch import TokenBatch
from student.objective import LEAST, OUTPUTS, StepContext, Term
from student.output import (
    HeadInput,
    hybrid,
    linear_divergence,
    logit_geometry,
    sequence_transport,
)
from student.step_outputs import Outputs
from student.terms import counts
from student.terms.likeliest_tokens import moved
from student.terms.options import (
    HybridOptions,
    KdOptions,
    LikelihoodOptions,
    ProjectedOptions,
    SequenceOptions,
)
from student.terms.same_vocabulary import (
    SameVocabularyTeacher,
    compare,
    labels_of,
    less_where_surprised,
    sides_of,
    temperature_of,
)
from student.terms.shared_text import (
    Stretches,
    likelihood_of,
    projected_of,
    stretches_of,
    transport_of,
)


def kd(ctx: StepContext) -> Tensor:
    """Divergence from teachers of the student's vocabulary, with hard labels if asked.

    Source:
        Hinton, Vinyals and Dean 2015 (arXiv 1503.02531); the divergences are those of
        :mod:`student.output.divergence.row_divergence`. Several teachers: the mean over
        tokens and teachers by weight, or the divergence from the weighted mean of their
        distributions. Under forward KL ``sum w_m KL(p_m || q)`` is
        ``KL(sum w_m p_m || q)`` plus what no ``q`` changes, the teachers' generalised
        Jensen-Shannon divergence (Lin 1991): one gradient.
    """
    outputs = ctx.outputs
    if outputs is None:
        return ctx.zero()
    config, labels = outputs.config, None
    if hard_labels := outputs.number("hard_labels"):
        known = None if ctx.totals is None else float(ctx.total(1, 0.0))
        labels = labels_of(outputs, hard_labels, known)
    sides = sides_of(outputs, outputs.of("kd"))
    total = ctx.total(0, _weigh(ctx, sides))
    sides = [less_where_surprised(outputs, side) for side in sides]
    if len(sides) == 1:
        return compare(outputs, sides[0], total, labels)
    loss = ctx.zero()
    if labels is not None:
        student = outputs.student
        hidden, block = student.hidden.flatten(0, 1), config.block
        loss = linear_divergence(hidden, student.matrix, [], labels=labels, block=block)
    if config.combine == "distributions" and sides:
        return loss + _from_mean(outputs, sides, total)
    for side in sides:
        loss = loss + compare(outputs, side, total)
    return loss


def hybrid_ot(ctx: StepContext) -> Tensor:
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
    alpha = outputs.number("ot_alpha")
    taught = outputs.of("hybrid_ot")
    sides = sides_of(
        outputs, [teacher for teacher in taught if outputs.speaks_alike(teacher)]
    )
    others = [teacher for teacher in taught if not outputs.speaks_alike(teacher)]
    stretches = stretches_of(outputs, others)
    parts = ctx.zero(), ctx.zero()
    if alpha > 0:
        parts = _transport(ctx, outputs, sides, stretches), parts[1]
    if alpha < 1:
        parts = parts[0], _apart(ctx, outputs, sides, stretches)
    return hybrid(*parts, alpha)


def sequence_ot(ctx: StepContext) -> Tensor:
    """Least cost of matching the tokens of two readings, compared as logits.

    Source:
        :func:`student.output.sequence_transport`; the mean over texts and teachers, by
        the teachers' mean weight at the tokens of each text.
    """
    outputs = ctx.outputs
    total, weight = ctx.zero(), ctx.zero()
    if outputs is None:
        return total
    student = outputs.student
    for taught in outputs.of("sequence_ot"):
        other = taught.output
        share = outputs.pairing(taught).by_text(taught.weight)
        costs = sequence_transport(
            student.hidden,
            other.hidden,
            *_matched(student.tokens, other.tokens),
            cost=outputs.config.sequence_cost,
            geometry=logit_geometry(student.matrix, other.matrix),
            reduction="none",
        )
        total, weight = total + (share * costs).sum(), weight + share.sum()
    return total / ctx.total(0, weight)


def _matched(student: TokenBatch, other: TokenBatch) -> tuple[Tensor, Tensor]:
    """(B, T_s) and (B, T_t) bool, the tokens that are matched: all that hold text;
    where one of both says nothing of a source, those of the target."""
    says_all = [(speaking(x.mask) == x.mask).all(1) for x in (student, other)]
    alike = (says_all[0] & says_all[1])[:, None]
    mine, theirs = (x.has_text & (x.predicted | alike) for x in (student, other))
    return mine, theirs


def likelihood(ctx: StepContext) -> Tensor:
    """Distance between the probabilities of stretches of text, across vocabularies.

    See :func:`student.output.chunk_likelihood`; the mean over stretches and teachers by
    the teachers' weights at the student's last token of each stretch.
    """
    outputs = ctx.outputs
    if outputs is None or not outputs.of("likelihood"):
        return ctx.zero()
    student = outputs.log_probs()
    ends = outputs.config.likelihood_ends == "blanks"
    total, weight = ctx.zero(), ctx.zero()
    for stretches in stretches_of(outputs, outputs.of("likelihood"), ends):
        total = total + likelihood_of(outputs, stretches, student, ends)
        weight = weight + stretches.weight.sum()
    return total / ctx.total(0, weight)


def projected_kl(ctx: StepContext) -> Tensor:
    """Divergence over the pieces that two vocabularies have in common.

    See :func:`student.output.projected_divergence`; the mean over places and teachers
    by the teachers' weights.
    """
    outputs = ctx.outputs
    if outputs is None or not outputs.of("projected_kl"):
        return ctx.zero()
    student = None
    if outputs.config.projected_chains:
        student = outputs.log_probs()
    total, weight = ctx.zero(), ctx.zero()
    for stretches in stretches_of(outputs, outputs.of("projected_kl")):
        total = total + projected_of(outputs, stretches, student)
        weight = weight + stretches.weight[stretches.places()[0]].sum()
    return total / ctx.total(0, weight)


OUTPUT_BUILT_IN: Mapping[str, Term] = {
    name: Term(
        function,
        frozenset({OUTPUTS}),
        count=count,
        compares=False,
        short=f"output.{name}",
        options=options,
    )
    for name, function, count, options in (
        ("kd", kd, counts.same_next, KdOptions),
        ("hybrid_ot", hybrid_ot, counts.hybrid, HybridOptions),
        ("sequence_ot", sequence_ot, counts.texts, SequenceOptions),
        ("likelihood", likelihood, counts.stretches, LikelihoodOptions),
        ("projected_kl", projected_kl, counts.pieces, ProjectedOptions),
    )
}
"""The built-in terms on outputs by name."""


def _from_mean(
    outputs: Outputs, sides: list[SameVocabularyTeacher], total: Tensor | float
) -> Tensor:
    """Divergence from the teachers' weighted mean."""
    weights = torch.stack([side.weight for side in sides])
    shares = (weights / weights.sum(0).clamp_min(LEAST)).log()
    mixed = [
        HeadInput(side.teacher.hidden, side.teacher.head, share)
        for side, share in zip(sides, shares, strict=True)
    ]
    first = sides[0]
    whole = SameVocabularyTeacher(first.taught, first.teacher, weights.sum(0))
    return compare(outputs, whole, total, teachers=mixed)


def _weigh(
    ctx: StepContext, parts: Sequence[SameVocabularyTeacher | Stretches]
) -> Tensor:
    """What the places of one pass weigh together."""
    return sum((part.weight.sum() for part in parts), ctx.zero())


def _transport(
    ctx: StepContext,
    outputs: Outputs,
    sides: Sequence[SameVocabularyTeacher],
    stretches: Sequence[Stretches],
) -> Tensor:
    """Mean cost over places and teachers, by weight."""
    weight = _weigh(ctx, sides)
    for some in stretches:
        weight = weight + some.weight[some.places()[0]].sum()
    costs = [_transport_alike(outputs, side) for side in sides]
    costs += [transport_of(outputs, some) for some in stretches]
    return sum(costs, ctx.zero()) / ctx.total(0, weight)


def _apart(
    ctx: StepContext,
    outputs: Outputs,
    sides: Sequence[SameVocabularyTeacher],
    stretches: Sequence[Stretches],
) -> Tensor:
    """What stands beside the transport: divergence, or likelihood of stretches."""
    total = ctx.total(1, _weigh(ctx, [*sides, *stretches]))
    loss = ctx.zero()
    for side in sides:
        loss = loss + compare(outputs, side, total)
    if not stretches:
        return loss
    student = outputs.log_probs()
    for some in stretches:
        loss = loss + likelihood_of(outputs, some, student, ends=False) / total
    return loss


def _transport_alike(outputs: Outputs, side: SameVocabularyTeacher) -> Tensor:
    """Costs, by weight, over the places that weigh something."""
    student, teacher = outputs.student, side.teacher
    rows = side.weight.nonzero()[:, 0]
    size = min(student.head.size, teacher.head.size)
    vectors = student.matrix.weight.detach()
    temperature = temperature_of(outputs, side)
    return moved(
        outputs.config,
        HeadInput(student.hidden.flatten(0, 1)[rows], student.matrix.first(size)),
        teacher=HeadInput(teacher.hidden[rows], teacher.head.first(size)),
        vectors=(vectors, vectors),
        weight=side.weight[rows],
        temperature=temperature[rows]
        if isinstance(temperature, Tensor) and temperature.dim()
        else temperature,
    )
