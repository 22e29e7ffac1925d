"""What rules of temperatures may ask for: how student and teacher look in one pass.

Each costs a pass through a head, so none is worked out before a rule asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from align.errors import InputError
from align.products.autocast import without_autocast
from align.schedules.seen import STRETCHES, STUDENT_TOKENS, SUMS, TOKENS
from align.tokens.answered import speaking
from align.views import LinearHead, Output
from student.output import (
    HeadInput,
    Labels,
    linear_divergence,
    linear_top_tokens,
)
from student.output.across.pairing import after
from student.output.across.signals import label_log_probs
from student.output.divergence.linear import (
    blocks,
    logits_of,
    product_dtype,
)
from student.output.temperature import gradient_signal_to_noise
from student.step_outputs import Outputs, Taught


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spots:
    """N places at which the student is compared with one teacher."""

    rows: Tensor
    """(N,) int64 into the student's B * T."""
    taught: Taught
    """Whose output it is."""
    teacher: HeadInput
    """(N, C_t)."""
    weight: Tensor
    """(N,) float32 >= 0."""
    distance: Callable[[Tensor, LinearHead], Tensor]
    """The comparison at ``output.temperature``, summed over places by weight, of
    (B * T, C) hidden states of the student's through a head; asked only by rules that
    look at gradients, and only where there are places."""


def teacher_entropy(outputs: Outputs, spots: Spots) -> Tensor:
    """(N,) nats."""
    hidden, head = spots.teacher.hidden, spots.teacher.head
    return linear_top_tokens(hidden, head, 1, outputs.config.block).entropy


def signal_to_noise(outputs: Outputs, spots: Spots) -> tuple[float, float]:
    """Of the gradients to the student's hidden states: distance, cross-entropy.

    Over the tokens of a pass on all processes, which must all ask.
    """
    student = outputs.student
    hidden = student.hidden.detach().flatten(0, 1).requires_grad_()
    head = student.matrix
    bias = None if head.bias is None else head.bias.detach()
    head = replace(head, weight=head.weight.detach(), bias=bias)
    counted = after(student.tokens.predicted.float()).flatten()
    labels = Labels(after(student.tokens.ids).flatten(), counted)
    total, of_distance = outputs.over_processes, torch.zeros_like(hidden)
    with torch.enable_grad():
        if len(spots.rows):  # else other processes alone have something to compare
            (of_distance,) = torch.autograd.grad(spots.distance(hidden, head), hidden)
        of_hard = linear_divergence(
            hidden, head, [], labels=labels, block=outputs.config.block
        )
        (of_labels,) = torch.autograd.grad(of_hard, hidden)
    return (
        gradient_signal_to_noise(of_distance[spots.rows], spots.weight, total),
        gradient_signal_to_noise(of_labels, counted, total),
    )


def parameters(outputs: Outputs, spots: Spots) -> tuple[int, int]:
    """How many the student and the teacher have.

    Raises:
        InputError: nobody knows.
    """
    counts, name = outputs.parameters, spots.taught.name
    student, teacher = counts.student, counts.teachers.get(name, 0)
    if not (student and teacher):
        raise InputError(
            f"how many parameters the student and teacher {name!r} have is not known "
            "here, as of a teacher in a store; choose another rule"
        )
    return student, teacher


@torch.no_grad()
def logit_spread(outputs: Outputs, spots: Spots) -> tuple[Tensor, Tensor]:
    """(N,) each, the standard deviation over tokens that are not forbidden (-inf)."""

    def spread(side: HeadInput) -> Tensor:
        parts = [
            spread_of(logits)
            for logits in _logits(side, side.head.size, outputs.config.block)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, device=side.hidden.device)

    return spread(_student(outputs, spots)), spread(spots.teacher)


@torch.no_grad()
def at_temperature(
    outputs: Outputs, spots: Spots, temperature: float
) -> tuple[float, float]:
    """The teacher's entropy and KL(student || teacher), means over places by weight of
    a pass on all processes, which must all ask.

    Raises:
        InputError: the vocabularies differ.
    """
    if not outputs.speaks_alike(spots.taught):
        raise InputError(
            f"the vocabulary of teacher {spots.taught.name!r} is not the student's, so "
            "their distributions cannot be compared token by token; choose another rule"
        )
    mine, block = _student(outputs, spots), outputs.config.block
    size = min(mine.head.size, spots.teacher.head.size)
    entropy = divergence = total = 0.0
    parts = zip(
        _logits(mine, size, block),
        _logits(spots.teacher, size, block),
        spots.weight.split(block),
        strict=True,
    )
    for student, teacher, weight in parts:
        p, q = ((x / temperature).softmax(-1) for x in (teacher, student))
        of_teacher = torch.special.entr(p).sum(-1)
        between = -torch.special.entr(q) - torch.special.xlogy(q, p)
        entropy += float((of_teacher * weight).sum())
        divergence += float((between.sum(-1) * weight)[weight > 0].sum())
        total += float(weight.sum())
    sums = [entropy, divergence, total]
    entropy, divergence, total = outputs.over_processes(sums)
    return (entropy / total, divergence / total) if total else (0.0, 0.0)


@torch.no_grad()
def loss_gap(outputs: Outputs, spots: Spots) -> Tensor:
    """(N,) nats a stretch, of the place's domain; of its text where none are known.

    Of the stretches that both models spell with whole tokens, so vocabularies may
    differ; of one vocabulary a stretch is a token. Domains go over the texts of a pass
    on all processes, which must all ask.
    """
    chunks, more = _lost(outputs, spots.taught)
    batch, width = outputs.student.tokens.ids.shape
    named = range(batch) if outputs.domains is None else outputs.domains
    known = outputs.domains is not None and set(named) <= set(outputs.every_domain)
    every = outputs.every_domain if known else dict.fromkeys(named)
    order = {domain: index for index, domain in enumerate(every)}
    domain = torch.tensor([order[name] for name in named], device=more.device)
    of_stretch = domain[chunks.student.last // width]
    sums = more.new_zeros(len(order)).index_add(0, of_stretch, more)
    counts = more.new_zeros(len(order)).index_add(0, of_stretch, torch.ones_like(more))
    if known:
        both = torch.cat([sums, counts])
        total = outputs.over_processes(both.double().tolist())
        sums, counts = both.new_tensor(total).chunk(2)
    return (sums / counts.clamp_min(1))[domain[spots.rows // width]]


def domain_difficulty(outputs: Outputs, spots: Spots) -> Tensor:
    """(N,) float32, of the place's domain as far as it is known, else the mean of those
    that are.

    Raises:
        InputError: nobody keeps count of it.
    """
    domains = outputs.timetable.domains
    if domains is None:
        raise InputError("how hard domains are is not known here; choose another rule")
    known = domains(outputs.step)
    mean = math.fsum(known.values()) / max(1, len(known))
    batch, width = outputs.student.tokens.ids.shape
    named = [""] * batch if outputs.domains is None else outputs.domains
    hard = torch.tensor([known.get(name, mean) for name in named])
    return hard.to(spots.rows.device)[spots.rows // width]


@torch.no_grad()
def pass_sums(outputs: Outputs, signals: Set[str]) -> dict[str, float]:
    """What :class:`.SeenRecord` adds up of a pass on this process, all teachers
    together: over the tokens of each one's own text, so that any vocabulary will do.

    Args:
        outputs: the student's side and its teachers'.
        signals: of :data:`align.schedules.rules.SIGNALS`, those that are wanted; sums
            of others are 0.
    """
    sums, block = dict.fromkeys(SUMS, 0.0), outputs.config.block

    def spread(side: HeadInput) -> float:
        parts = _logits(side, side.head.size, block)
        return sum(float(spread_of(logits).double().sum()) for logits in parts)

    for taught in outputs.teachers:
        side = _text_of(taught.output)
        sums[TOKENS] += len(side.hidden)
        sums["log_vocabulary"] += len(side.hidden) * math.log(side.head.size)
        if "teacher_entropy" in signals and len(side.hidden):
            top = linear_top_tokens(side.hidden, side.head, 1, block)
            sums["teacher_entropy"] += float(top.entropy.double().sum())
        if "logit_spread" in signals:
            sums["teacher_spread"] += spread(side)
        if "loss_gap" in signals:
            _, more = _lost(outputs, taught)
            sums[STRETCHES] += len(more)
            sums["loss_gap"] += float(more.double().sum())
    if "logit_spread" in signals:
        mine = _text_of(outputs.student)
        sums[STUDENT_TOKENS], sums["student_spread"] = len(mine.hidden), spread(mine)
    return sums


def _text_of(output: Output) -> HeadInput:
    """A model's own text tokens after which it says what comes."""
    says = output.tokens.has_text & speaking(output.tokens.mask)
    return HeadInput(output.hidden.detach()[says], output.head)


def _lost(outputs: Outputs, taught: Taught) -> tuple[Any, Tensor]:
    """Stretches that both models spell with whole tokens, and by how much more the
    student loses on each, nats."""
    chunks, block = outputs.pairing(taught).chunks(), outputs.config.block
    student = label_log_probs(outputs.student, block)
    teacher = label_log_probs(taught.output, block)
    return chunks, chunks.teacher.sum(teacher) - chunks.student.sum(student)


def spread_of(logits: Tensor) -> Tensor:
    """(n,), the standard deviation of (n, V) logits that are finite."""
    known = logits.isfinite()
    count = known.sum(-1, keepdim=True)
    mean = logits.where(known, 0).sum(-1, keepdim=True) / count
    return ((logits - mean).where(known, 0).square().sum(-1) / count[:, 0]).sqrt()


def _student(outputs: Outputs, spots: Spots) -> HeadInput:
    hidden = outputs.student.hidden.detach().flatten(0, 1)[spots.rows]
    return HeadInput(hidden, outputs.student.head)


def _logits(side: HeadInput, size: int, block: int) -> Iterator[Tensor]:
    """Blocks of (n, size), float32, or float64 of such a head."""
    dtype, head = product_dtype(side.hidden, side.head), side.head.first(size)
    if isinstance(head, LinearHead):
        head = LinearHead(head.weight.detach().to(dtype), head.bias)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with without_autocast(side.hidden):
        for rows in blocks(len(side.hidden), block):
            yield logits_of(side.hidden[rows].detach().to(dtype), head, wide)
