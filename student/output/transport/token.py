"""Optimal transport between next-token distributions, over their likeliest tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from align.calibration import CalibrationStats, calibrate_ridge
from align.products.autocast import without_autocast
from student.output.across.likelihood import Reduction
from student.output.divergence.top_tokens import TopTokens, masked_log_softmax
from student.output.transport.solver import TransportSettings, solve

_BLOCK = 256
"""Rows whose vectors and costs are held at once."""


@dataclass(frozen=True, slots=True, eq=False)
class TransportLoss:
    """The loss, and how much of either distribution it does not see."""

    loss: Tensor
    """A scalar, or (N,) without reduction, in units of the cost."""
    student_left_out: Tensor
    """(N,) probability of tokens outside the student's support, detached."""
    teacher_left_out: Tensor
    """(N,) probability of tokens outside the teacher's support."""


def token_transport(
    student: TopTokens,
    teacher: TopTokens,
    student_vectors: Tensor,
    teacher_vectors: Tensor,
    *,
    student_temperature: float | Tensor = 1.0,
    teacher_temperature: float | Tensor = 1.0,
    settings: TransportSettings | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> TransportLoss:
    """Least cost of moving the student's next-token mass onto the teacher's.

    Each model is looked at on its own likeliest tokens, with their probabilities
    renormalised: the vocabularies may differ, and a student that bets on a synonym is
    nearer than one that bets on noise. Moving mass from one token to another costs
    1 - cos of their vectors, in [0, 2]. The rest of the vocabulary is left to the KL or
    the likelihood beside it (:func:`hybrid`). With as many tokens as the vocabulary
    has, nothing is left out.

    The gradient reaches the student's logits alone. The vectors are fixed here: a loss
    that may move its own cost makes all tokens alike.

    ``sinkhorn`` is debiased, so that equal distributions over equal tokens cost 0: from
    the regularised cost half of each distribution's cost to itself is taken off.

    Args:
        student: N rows, see :func:`student.output.linear_top_tokens`.
        teacher: N rows at the same places; k may differ.
        student_vectors: (V_s, D) float, what each student token means: its embedding,
            or :func:`student.output.byte_vectors`.
        teacher_vectors: (V_t, D) float, in the same space; see
            :func:`in_student_space` where widths differ.
        student_temperature: > 0, one or (N,).
        teacher_temperature: > 0, one or (N,).
        settings: the solver; None takes the defaults.
        weight: (N,) float >= 0, how much each row counts; rows of 0, such as padding,
            are not solved. None counts all alike.
        reduction: ``mean`` over rows by weight, ``sum``, or ``none``.

    Returns:
        The loss, at least float32; 0 where no row counts.

    Raises:
        ValueError: a setting or a shape is wrong.

    Source:
        :func:`student.output.transport_cost`; debiasing: Feydy et al. 2019 (arXiv
        1810.08278), eq. 3.
    """
    _check(student, teacher, student_vectors, teacher_vectors, reduction)
    wide = student.logits.dtype
    count = torch.ones_like(student.log_total) if weight is None else weight.to(wide)
    kept = count.nonzero()[:, 0]
    p = _probabilities(student.logits, student_temperature, kept)
    q = _probabilities(teacher.logits.detach(), teacher_temperature, kept)
    with torch.no_grad():
        losses = [
            _solved(
                p[some],
                q[some],
                student_vectors[student.ids[rows]],
                teacher_vectors[teacher.ids[rows]],
                settings or TransportSettings(),
            )
            for some, rows in _blocks(kept)
        ]
    value = torch.cat([x for x, _ in losses]) if losses else p.sum(1)
    pull = torch.cat([x for _, x in losses]) if losses else p
    # p - p.detach() is 0 and carries the gradient, which is the pull
    value = value + ((p - p.detach()) * pull).sum(1)
    each = torch.zeros_like(count).index_put((kept,), count[kept] * value)
    if reduction == "mean":
        each = each.sum() / count.sum().clamp_min(torch.finfo(count.dtype).tiny)
    elif reduction == "sum":
        each = each.sum()
    return TransportLoss(each, student.left_out, teacher.left_out)


def hybrid(transport: Tensor, divergence: Tensor, alpha: float) -> Tensor:
    """Weigh transport against the divergence beside it.

    Args:
        transport: a loss of :func:`token_transport`.
        divergence: the KL over the whole vocabulary, or across vocabularies the
            likelihood of chunks, reduced alike.
        alpha: share of the transport, in [0, 1].

    Returns:
        ``alpha * transport + (1 - alpha) * divergence``.

    Raises:
        ValueError: alpha is out of range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    return alpha * transport + (1 - alpha) * divergence


def in_student_space(
    teacher_vectors: Tensor, student_vectors: Tensor, pairs: Tensor
) -> Tensor:
    """Carry a teacher's embeddings into the student's space, in closed form.

    Args:
        teacher_vectors: (V_t, D_t) float.
        student_vectors: (V_s, D_s) float.
        pairs: (K, 2) int64, student and teacher ids of the same string; at least 2.

    Returns:
        (V_t, D_s) float32: the least-squares map of the pairs, of all teacher tokens.

    Raises:
        ValueError: there are too few pairs.

    Source:
        Ridge regression (:func:`align.calibrate_ridge`). It is fitted once and held: a
        map that the transport could move would carry all tokens to one place.
    """
    if pairs.dim() != 2 or pairs.shape[1] != 2 or len(pairs) < 2:
        raise ValueError(
            f"pairs have shape {tuple(pairs.shape)}; give (K, 2) student and teacher "
            "ids of at least 2 strings that both vocabularies have"
        )
    with torch.no_grad():
        device = str(teacher_vectors.device)
        sizes = teacher_vectors.shape[1], student_vectors.shape[1]
        stats = CalibrationStats(1, *sizes, device=device)
        for some in pairs.to(device).split(8192):
            student = student_vectors[some[:, 0].to(student_vectors.device)]
            stats.update(teacher_vectors[some[:, 1]][None], student.to(device)[None])
        weight, bias = calibrate_ridge(stats)
        mapped = teacher_vectors.float() @ weight[0].float() + bias[0].float()
        return mapped.to(student_vectors.device)


def cosine_cost(x: Tensor, y: Tensor) -> Tensor:
    """1 - cosine of every pair: (P, n, D) and (P, m, D) give (P, n, m) in [0, 2]."""
    wide = torch.promote_types(x.dtype, torch.float32)
    x, y = (F.normalize(v.to(wide), dim=-1, eps=1e-6) for v in (x, y))
    with without_autocast(x):
        return (1 - x @ y.transpose(1, 2)).clamp_(0, 2)


def _probabilities(logits: Tensor, temperature: float | Tensor, kept: Tensor) -> Tensor:
    """(n, k) of the kept rows; the others may hold anything."""
    if isinstance(temperature, Tensor) and temperature.dim():
        temperature = temperature[kept]
    return masked_log_softmax(logits[kept], temperature).exp()


def _blocks(kept: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of kept rows: their places among the kept, and among all."""
    for start in range(0, len(kept), _BLOCK):
        some = slice(start, start + _BLOCK)
        yield some, kept[some]


def _solved(
    p: Tensor,
    q: Tensor,
    x: Tensor,
    y: Tensor,
    settings: TransportSettings,
) -> tuple[Tensor, Tensor]:
    """The cost (n,) of some rows and its derivative by the student's mass (n, k)."""
    between = solve(p, q, cosine_cost(x, y), settings)
    if settings.solver_on(p.device) == "exact":
        return between.cost, between.source
    student_cost, teacher_cost = (
        solve(p, p, cosine_cost(x, x), settings),
        solve(q, q, cosine_cost(y, y), settings),
    )
    pull = between.source - (student_cost.source + student_cost.target) / 2
    return between.cost - (student_cost.cost + teacher_cost.cost) / 2, pull


def _check(
    student: TopTokens,
    teacher: TopTokens,
    student_vectors: Tensor,
    teacher_vectors: Tensor,
    reduction: str,
) -> None:
    if reduction not in get_args(Reduction):
        raise ValueError(
            f"reduction is {reduction!r}; give {', '.join(get_args(Reduction))}"
        )
    if len(student.ids) != len(teacher.ids):
        raise ValueError(
            f"student has {len(student.ids)} rows and teacher {len(teacher.ids)}; give "
            "the same places of both"
        )
    if student_vectors.shape[1] != teacher_vectors.shape[1]:
        raise ValueError(
            f"student_vectors are {student_vectors.shape[1]} wide and teacher_vectors "
            f"{teacher_vectors.shape[1]}; bring them into one space with "
            "in_student_space, or use byte_vectors of both vocabularies"
        )
    sides = ("student", student, student_vectors), ("teacher", teacher, teacher_vectors)
    for name, tokens, vectors in sides:
        if tokens.ids.numel() and int(tokens.ids.max()) >= len(vectors):
            raise ValueError(
                f"{name} ids reach {int(tokens.ids.max())}, but {name}_vectors has "
                f"{len(vectors)} rows; give one vector for every row of its head"
            )
