"""A teacher of any vocabulary beside the student, by the text they both spell."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from align.views import LinearHead, Output
from student.output import (
    Chains,
    Chunks,
    Divergence,
    HeadInput,
    Support,
    chains_of,
    chunk_likelihood,
    linear_top_tokens,
    pool_logits,
    projected_divergence,
    support_beside,
)
from student.output.across.pairing import Pairing
from student.output.across.signals import label_log_probs
from student.output.divergence.linear import logits_of
from student.step_outputs import Outputs, Taught
from student.terms.likeliest_tokens import moved
from student.terms.signals import Spots
from student.terms.temperature import temperature_at


@dataclass(frozen=True, slots=True, eq=False)
class Stretches:
    """The N stretches that one teacher and the student both spell with whole tokens."""

    taught: Taught
    pairing: Pairing
    chunks: Chunks
    weight: Tensor
    """(N,) float32 >= 0, how much each counts."""

    def places(self) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`student.output.across.pairing.Pairing.places`."""
        return self.pairing.places(self.weight)


def stretches_of(
    outputs: Outputs, taught: list[Taught], at_blanks: bool = False
) -> list[Stretches]:
    """Some teachers, by routing weight or by their own confidence.

    A stretch counts as its last token of the student's does.

    Args:
        outputs: of one batch.
        taught: the teachers.
        at_blanks: as of :func:`student.output.shared_chunks`.
    """
    pairings = [outputs.pairing(teacher) for teacher in taught]
    chunks = [pairing.chunks(at_blanks) for pairing in pairings]
    weights = [t.weight for t in taught]
    if outputs.config.weighting != "routing" and len(taught) > 1:
        weights = _by_confidence(outputs, taught, chunks)
    every = zip(taught, pairings, chunks, weights, strict=True)
    return [
        Stretches(teacher, pairing, some, pairing.stretches(weight, at_blanks))
        for teacher, pairing, some, weight in every
    ]


def likelihood_of(
    outputs: Outputs, stretches: Stretches, student: Tensor, ends: bool
) -> Tensor:
    """Sum over stretches, by weight, of the distance between their probabilities.

    Args:
        outputs: of one batch.
        stretches: of one teacher.
        student: (B, T_s) from :func:`label_log_probs`.
        ends: whether that a blank follows is part of the event.
    """
    config, taught = outputs.config, stretches.taught
    with torch.no_grad():
        teacher = label_log_probs(taught.output, config.block)
    temperature = _temperature_of_stretches(outputs, stretches, teacher)
    own_end = other_end = None
    if ends:
        lexicon, chunks = outputs.lexicons[taught.name], stretches.chunks
        own_end = _blank_follows(
            outputs.student, chunks.student.last, lexicon.student.blank, config.block
        )
        with torch.no_grad():
            other_end = _blank_follows(
                taught.output, chunks.teacher.last, lexicon.teacher.blank, config.block
            )
    return chunk_likelihood(
        student,
        teacher,
        stretches.chunks,
        form=config.likelihood_form,
        temperature=config.likelihood_temperature * temperature / config.start,
        student_end=own_end,
        teacher_end=other_end,
        weight=stretches.weight,
        reduction="sum",
    )


def transport_of(outputs: Outputs, stretches: Stretches) -> Tensor:
    """Sum over places, by weight, of the least cost between likeliest tokens.

    Moving mass from a token of one vocabulary to one of the other costs 1 - cos of
    their spellings.
    """
    student_output, teacher_output = outputs.student, stretches.taught.output
    lexicon = outputs.lexicons[stretches.taught.name]
    at, mine, theirs = stretches.places()
    teacher = HeadInput(
        teacher_output.hidden.flatten(0, 1)[theirs], teacher_output.head
    )
    vectors = lexicon.student.vectors, lexicon.teacher.vectors
    weight = stretches.weight[at]

    def cost(hidden: Tensor, head: LinearHead, temperature: float | Tensor) -> Tensor:
        student = HeadInput(hidden[mine], head)
        return moved(
            outputs.config,
            student,
            teacher=teacher,
            vectors=vectors,
            weight=weight,
            temperature=temperature,
        )

    start = outputs.config.start
    spots = Spots(
        rows=mine,
        taught=stretches.taught,
        teacher=teacher,
        weight=weight,
        distance=lambda h, head: cost(h, head, start),
    )
    return cost(
        student_output.hidden.flatten(0, 1),
        student_output.matrix,
        temperature_at(outputs, spots),
    )


def projected_of(
    outputs: Outputs, stretches: Stretches, student: Tensor | None
) -> Tensor:
    """Sum over places, by weight, of the divergence over common pieces.

    Args:
        outputs: of one batch.
        stretches: of one teacher.
        student: (B, T_s) from :func:`label_log_probs`, where stretches that came are
            outcomes of their own; else None.
    """
    config, student_output, teacher_output = (
        outputs.config,
        outputs.student,
        stretches.taught.output,
    )
    pieces = outputs.lexicons[stretches.taught.name].pieces
    at, mine, theirs = stretches.places()
    chains = None
    if student is not None:
        likelihood, chunks = (
            label_log_probs(teacher_output, config.block),
            stretches.chunks,
        )
        both = (
            (student_output, student, chunks.student),
            (teacher_output, likelihood, chunks.teacher),
        )
        sides = [
            (
                side.sum(log_probs)[at],
                output.tokens.ids.flatten()[side.first[at]],
                side.sum(torch.ones_like(log_probs))[at],
            )
            for output, log_probs, side in both
        ]
        chains = chains_of(pieces, *sides)
    teacher = HeadInput(
        teacher_output.hidden.flatten(0, 1)[theirs], teacher_output.head
    )
    weight = stretches.weight[at]
    asked = Support(config.top_k, config.threshold)
    support = support_beside(teacher.head, asked)

    def divergence(
        hidden: Tensor,
        head: LinearHead,
        temperature: float | Tensor,
        chains: Chains | None = None,
    ) -> Tensor:
        return projected_divergence(
            hidden[mine],
            head,
            teacher_hidden=teacher.hidden,
            teacher_head=teacher.head,
            pieces=pieces,
            settings=Divergence(config.divergence, config.mix, support),
            temperature=temperature,
            weight=weight,
            chains=chains,
            block=config.block,
        )

    start = config.start
    spots = Spots(
        rows=mine,
        taught=stretches.taught,
        teacher=teacher,
        weight=weight,
        distance=lambda h, head: divergence(h, head, start),
    )
    temperature = temperature_at(outputs, spots)
    return divergence(
        student_output.hidden.flatten(0, 1),
        student_output.matrix,
        temperature,
        chains,
    )


def _temperature_of_stretches(
    outputs: Outputs, stretches: Stretches, said: Tensor
) -> float | Tensor:
    """One temperature, or (N,): at the places before the stretches.

    ``said``: (B, T_t) from :func:`label_log_probs`, of the teacher.
    """
    config, student_output, teacher_output = (
        outputs.config,
        outputs.student,
        stretches.taught.output,
    )
    chunks = stretches.chunks
    hidden = teacher_output.hidden.flatten(0, 1)[chunks.teacher.first - 1]

    def distance(hidden: Tensor, head: LinearHead) -> Tensor:
        student = replace(
            student_output, hidden=hidden.view(student_output.hidden.shape), head=head
        )
        return chunk_likelihood(
            label_log_probs(student, config.block),
            said,
            chunks,
            form=config.likelihood_form,
            temperature=config.likelihood_temperature,
            weight=stretches.weight,
            reduction="sum",
        )

    rows, teacher = chunks.student.first - 1, HeadInput(hidden, teacher_output.head)
    spots = Spots(
        rows=rows,
        taught=stretches.taught,
        teacher=teacher,
        weight=stretches.weight,
        distance=distance,
    )
    return temperature_at(outputs, spots)


def _blank_follows(output: Output, last: Tensor, blank: Tensor, block: int) -> Tensor:
    """(B, T) log-probability that the next token begins with a blank; 0 where no
    stretch ends. Logits are worked out once more in the backward."""
    wide = torch.promote_types(output.hidden.dtype, torch.float32)

    def of_block(hidden: Tensor) -> Tensor:
        logits = logits_of(hidden, output.head, wide)
        return pool_logits(logits, blank.long(), 2).log_softmax(-1)[:, 1]

    rows = output.hidden.flatten(0, 1)[last].split(block)
    follows = [checkpoint(of_block, some, use_reentrant=False) for some in rows]
    places = output.tokens.ids.numel()
    flat = torch.zeros(places, dtype=torch.float32, device=last.device)
    if follows:
        joined = torch.cat(follows)
        flat = flat.to(joined.dtype).index_put((last,), joined)
    return flat.view(output.tokens.ids.shape)


@torch.no_grad()
def _by_confidence(
    outputs: Outputs, taught: list[Taught], chunks: list[Chunks]
) -> list[Tensor]:
    """(B, T_s) each: what the teachers weigh together, shared by how sure they are.

    By what they say of a stretch per character, since the stretches of two teachers
    differ; the rule itself is that of
    :func:`student.terms.same_vocabulary.sides_of`.
    """
    spans = outputs.student.tokens.spans
    width = (spans[..., 1] - spans[..., 0]).float()
    weights = torch.stack([t.weight for t in taught])
    scores = []
    for teacher, some in zip(taught, chunks, strict=True):
        said = _surety(teacher.output, outputs.config.weighting, outputs.config.block)
        each = some.teacher.sum(said) / some.student.sum(width).clamp_min(1)
        each = torch.cat([each, each.new_tensor([-math.inf])])  # the last is that of -1
        scores.append(each[some.student.chunk])
    score = torch.stack(scores).masked_fill(weights == 0, -math.inf)
    shares = score.softmax(0).nan_to_num(0.0).to(weights.dtype)
    return list(shares * weights.sum(0))


def _surety(output: Output, kind: str, block: int) -> Tensor:
    """(B, T) nats, how sure a model was of each token before it came; 0 for the first.

    Log probability of the token, minus the entropy, or log of the greatest probability.
    """
    if kind == "cross_entropy":
        return label_log_probs(output, block)
    best = linear_top_tokens(output.hidden.flatten(0, 1), output.head, 1, block)
    said = -best.entropy if kind == "entropy" else best.logits[:, 0] - best.log_total
    return torch.nn.functional.pad(said.view(output.tokens.ids.shape)[:, :-1], (1, 0))
