"""What two models with different tokenizers give to the same stretches of text."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from align.tokens import TokenBatch
from student.output.chunks import Chunks, ChunkTokens

LikelihoodForm = Literal["binary", "squared", "absolute"]
Reduction = Literal["mean", "sum", "none"]

_FLOOR = 1e-6
"""Nats added to both surprises: below it float32 cannot tell a probability from 1,
and the binary form has no finite gradient at 1."""


def chunk_likelihood(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    chunks: Chunks,
    form: LikelihoodForm = "binary",
    temperature: float = 100.0,
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
        student_log_probs: (B, T_s) float, log p(token | all before it) in nats; places
            that no chunk reads, such as the first and padding, may hold anything.
        teacher_log_probs: (B, T_t) float; detached here.
        chunks: from :func:`student.output.shared_chunks`.
        form: see above.
        temperature: tau > 0, of the binary form alone. The larger, the more the
            likely and the unlikely chunks count alike.
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


def label_log_probs(logits: Tensor, batch: TokenBatch, block: int = 128) -> Tensor:
    """Log-probability of every token under the logits of the token before it.

    Args:
        logits: (B, T, V) float.
        batch: the tokens; ids may not reach V.
        block: tokens whose distributions are widened to float32 at a time; the
            backward pass computes them again.

    Returns:
        (B, T) at least float32, nats; 0 for the first token, which nothing predicts,
        and for padding.

    Raises:
        ValueError: shapes differ, or an id is not in the vocabulary of the logits.
    """
    if logits.dim() != 3 or logits.shape[:2] != batch.ids.shape:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}; give (B, T, V) for ids "
            f"{tuple(batch.ids.shape)}"
        )
    real = batch.mask.clone()
    real[:, :1] = False
    labels = batch.ids.masked_fill(~real, 0)
    if labels.numel() and int(labels.max()) >= logits.shape[2]:
        raise ValueError(
            f"batch.ids reach {int(labels.max())}, but the logits know ids "
            f"0..{logits.shape[2] - 1}; give the logits of the model that these ids "
            "were made for"
        )
    wide = torch.promote_types(logits.dtype, torch.float32)
    out = torch.zeros(labels.shape, dtype=wide, device=logits.device)
    if not bool(real.any()):
        return out + 0 * logits.sum()
    before = real.roll(-1, 1)  # the first place is never real, so nothing wraps
    found = _LabelLogProbs.apply(logits[before], labels[real], block)
    return out.masked_scatter(real, found)


class _LabelLogProbs(torch.autograd.Function):
    """Log softmax at one label a row, without keeping a float32 copy of the rows."""

    @staticmethod
    def forward(ctx, logits, labels, block):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(logits, labels)
        ctx.block = block
        wide = torch.promote_types(logits.dtype, torch.float32)
        parts = zip(logits.split(block), labels[:, None].split(block), strict=True)
        found = [rows.to(wide).log_softmax(-1).gather(1, at) for rows, at in parts]
        return torch.cat(found)[:, 0]

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        logits, labels = ctx.saved_tensors
        out = torch.empty_like(logits)
        for start in range(0, len(logits), ctx.block):
            rows = slice(start, start + ctx.block)
            spread = logits[rows].to(grad.dtype).softmax(-1).mul_(-grad[rows, None])
            out[rows] = spread.scatter_add_(1, labels[rows, None], grad[rows, None])
        return out, None, None


def _chunk_log_probs(
    log_probs: Tensor, side: ChunkTokens, end: Tensor | None
) -> Tensor:
    """(N,) nats."""
    total = side.sum(log_probs)
    if end is None:
        return total
    return total + end.reshape(-1)[side.last].to(total.dtype)


def _binary(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """tau times the KL between two Bernoulli variables with tempered log-odds."""
    log_s, log_t = ((x - _FLOOR) / temperature for x in (student, teacher))
    p = log_t.exp()
    happens = p * (log_t - log_s)
    fails = -torch.expm1(log_t) * (_log1mexp(log_t) - _log1mexp(log_s))
    return temperature * (happens + fails)


def _log1mexp(x: Tensor) -> Tensor:
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
    temperature: float,
    reduction: str,
    student_end: Tensor | None,
    teacher_end: Tensor | None,
) -> None:
    if form not in get_args(LikelihoodForm):
        raise ValueError(f"form is {form!r}; give {_named(LikelihoodForm)}")
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {reduction!r}; give {_named(Reduction)}")
    if not 0 < temperature < math.inf:
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
