"""What two models with different tokenizers give to the same stretches of text."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from student.output.across.chunks import Chunks, ChunkTokens
from student.output.kinds import LikelihoodForm

Reduction = Literal["mean", "sum", "none"]

_FLOOR = 1e-6
"""Nats added to both surprises: below it float32 cannot tell a probability from 1,
and the binary form has no finite gradient at 1."""


def chunk_likelihood(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    chunks: Chunks,
    *,
    form: LikelihoodForm = "binary",
    temperature: float | Tensor = 100.0,
    student_end: Tensor | None = None,
    teacher_end: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Distance between the probabilities two models give to the same text.

    With ``s`` and ``t`` the log-probabilities of one chunk, sums over its tokens:

    - ``binary``: ``tau * KL(Bernoulli(exp(t / tau)) || Bernoulli(exp(s / tau)))``. As
      tau grows it tends to ``t_ log(t_ / s_) - t_ + s_`` with ``t_ = -t, s_ = -s``,
      which sees the ratio of two surprises however small both probabilities are.
    - ``squared``: ``(s - t)^2 / 2``.
    - ``absolute``: ``|s - t|``.

    Bias of tokenisation: a token's probability leaves out the texts in which its
    letters would have been part of a longer token, and the two vocabularies differ in
    which those are. It is small where both have to cut. Cut with ``at_blanks`` and
    give both models' log-probability that a blank follows, and every chunk is the
    event "this word, and here it ends", which means the same in both.

    Args:
        student_log_probs: (B, T_s) float, log p(token | all before it) in nats, as
            :func:`student.output.linear_log_likelihood` finds them; places that no
            chunk reads, such as the first and padding, may hold anything.
        teacher_log_probs: (B, T_t) float; detached here.
        chunks: from :func:`student.output.shared_chunks`.
        form: see above.
        temperature: tau > 0, one or (N,), of the binary form alone. The larger, the
            more the likely and the unlikely chunks count alike.
        student_end: (B, T_s) float, log-probability that the token after this one
            begins with a blank, read at the last token of each chunk; None adds
            nothing.
        teacher_end: (B, T_t) float, the same of the teacher.
        weight: (N,) float >= 0, how much each chunk counts; None counts all alike.
        reduction: ``mean`` over chunks by weight, ``sum``, or ``none``.

    Returns:
        A scalar, or (N,), at least float32, in nats; 0 where there is no chunk. A chunk
        to which either model gives probability 0 counts nothing: its distance has no
        gradient.

    Raises:
        ValueError: a setting or a shape is wrong.

    Source:
        Minixhofer, Vulic and Ponti 2025, approximate likelihood matching (arXiv
        2503.20083): the binary f-divergence with KL and its temperature (100).
        Departures: multiplied by tau, so that the temperature changes the shape of the
        loss and not its size; 1e-6 nats are added to both surprises; chunks are cut at
        blanks that are in the text instead of where a blank is likely enough.
    """
    _check(form, temperature, reduction, student_end, teacher_end)
    student = _chunk_log_probs(student_log_probs, chunks.student, student_end)
    teacher = _chunk_log_probs(teacher_log_probs, chunks.teacher, teacher_end).detach()
    possible = ~(student.isinf() | teacher.isinf())
    student = torch.where(possible, student, 0)
    teacher = torch.where(possible, teacher, 0).to(student.dtype)
    if form == "binary":
        distance = _binary(student, teacher, temperature)
    elif form == "squared":
        distance = (student - teacher).square() / 2
    else:
        distance = (student - teacher).abs()
    share = possible.to(distance.dtype)
    if weight is not None:
        share = share * weight.to(distance.dtype)
    if reduction == "none":
        return distance * share
    total = (distance * share).sum()
    if reduction == "sum":
        return total
    return total / share.sum().clamp_min(torch.finfo(share.dtype).tiny)


def _chunk_log_probs(
    log_probs: Tensor, side: ChunkTokens, end: Tensor | None
) -> Tensor:
    """(N,) nats."""
    total = side.sum(log_probs)
    if end is None:
        return total
    return total + end.reshape(-1)[side.last].to(total.dtype)


def _binary(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """tau times the KL between two Bernoulli variables with tempered log-odds."""
    log_s, log_t = ((x - _FLOOR) / temperature for x in (student, teacher))
    p = log_t.exp()
    happens = p * (log_t - log_s)
    fails = -torch.expm1(log_t) * (log1mexp(log_t) - log1mexp(log_s))
    return temperature * (happens + fails)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0.

    Source:
        Maechler 2012: each of two formulas where it is accurate. The other one gets a
        harmless argument, because its infinite gradient times 0 would be NaN.
    """
    near = x > -0.6931
    small = torch.log(-torch.expm1(torch.where(near, x, -1)))
    large = torch.log1p(-torch.exp(torch.where(near, -1, x)))
    return torch.where(near, small, large)


def _check(
    form: str,
    temperature: float | Tensor,
    reduction: str,
    student_end: Tensor | None,
    teacher_end: Tensor | None,
) -> None:
    if form not in get_args(LikelihoodForm):
        raise ValueError(f"form is {form!r}; give {_named(LikelihoodForm)}")
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {reduction!r}; give {_named(Reduction)}")
    row_temperature = torch.as_tensor(temperature)
    if not bool((row_temperature.isfinite() & (row_temperature > 0)).all()):
        raise ValueError(f"temperature must be > 0 and finite, got {temperature}")
    if (student_end is None) != (teacher_end is None):
        given, absent = ("teacher_end", "student_end")[
            :: -1 if teacher_end is None else 1
        ]
        raise ValueError(
            f"{given} is given without {absent}: only with both do the chunks of the "
            "two models mean the same; give both or neither"
        )


def _named(choices: object) -> str:
    return ", ".join(get_args(choices))
