"""Optimal transport between all tokens of one reading of a text and of another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from align.products.autocast import without_autocast
from student.output.across.likelihood import Reduction
from student.output.kinds import SequenceCost
from student.output.transport.geometry import Geometry
from student.output.transport.solver import TransportSettings, solve

_BLOCK = 1 << 18
"""Entries of the cost that are worked on at a time."""
_EXACT = 512 * 512
"""Most entries of a cost for which ``auto`` takes the exact solver on a CPU."""
_CHECK_EVERY = 10


def sequence_transport(
    student: Tensor,
    teacher: Tensor,
    student_mask: Tensor,
    teacher_mask: Tensor,
    *,
    cost: SequenceCost = "cosine",
    geometry: Geometry | None = None,
    temperature: float = 1.0,
    settings: TransportSettings | None = None,
    debiased: bool = True,
    reduction: Reduction = "mean",
) -> Tensor:
    """Least cost of matching a text's N student tokens with its M teacher tokens.

    Every student token carries 1/N and every teacher token takes 1/M, so no length is
    infeasible. The plan is global: any token may be matched with any other. A sum of
    plans, one for each block of tokens, is another problem and a wrong one: it forbids
    mass to cross a block's edge, though N tokens and M tokens of one text drift apart
    from the first one on, so that equal blocks do not even hold the same text. It can
    only cost more, depends on where blocks begin, and pulls tokens to whatever stands
    in their block. Here only the *work* is cut into blocks.

    Memory is that of N x M numbers, one text at a time, however wide the vectors are.

    Args:
        student: (B, N, C_s) float: hidden states, or logits.
        teacher: (B, M, C_t) float, detached here; C_t = C_s without a geometry.
        student_mask: (B, N) bool, True on tokens that take part.
        teacher_mask: (B, M) bool.
        cost: ``cosine``: 1 - cos, in [0, 2]; ``squared``: squared distance per channel;
            ``softmax``: 1 - softmax over the teacher's tokens of the inner product over
            ``temperature * sqrt(width)``, a recipe in use, which depends on M: with
            many tokens all of them cost nearly 1.
        geometry: how to compare vectors of unlike widths, or hidden states as logits
            (:func:`student.output.logit_geometry`); None takes the plain inner product.
        temperature: > 0, of ``softmax`` alone.
        settings: the solver. ``auto`` is exact on a CPU up to 512 x 512 tokens, else
            Sinkhorn in the log domain.
        debiased: take off half of each side's cost to itself from what Sinkhorn finds,
            so that equal sequences cost 0; not of ``softmax``, whose cost to itself
            means nothing.
        reduction: ``mean`` over the texts of which both sides have tokens, ``sum``, or
            ``none``.

    Returns:
        A scalar, or (B,), at least float32, in units of the cost, with the gradient to
        ``student`` (and to the head within the geometry); 0 without tokens.

    Raises:
        ValueError: a setting or a shape is wrong.
        ImportError: the exact solver is needed and POT is not installed.

    Source:
        Sinkhorn between the tokens of two readings: Cui et al. 2024, Multi-Level OT
        (arXiv 2412.14528). Departures: marginals 1/N and 1/M, where forcing all rows
        and columns to 1 has no solution; vectors in place of sorted, cut logits.
        Solver, envelope and debiasing: :func:`student.output.transport_cost` and
        :func:`student.output.token_transport`.
    """
    _check(student, teacher, student_mask, teacher_mask, geometry)
    _check_choices(cost, reduction, temperature)
    settings = settings or TransportSettings()
    wide = torch.promote_types(student.dtype, torch.float32)
    costs = []
    for b in range(len(student)):
        x = student[b][student_mask[b]].to(wide)
        y = teacher[b][teacher_mask[b]].to(wide).detach()
        if not len(x) or not len(y):
            costs.append(x[:0].sum())  # 0 with a gradient
            continue
        pairs = _pairs(x, y, geometry)
        solver = _solver(settings, pairs[0])
        value = _global_cost(pairs[0], cost, temperature, settings, solver)
        if debiased and solver == "sinkhorn" and cost != "softmax":
            for pair in pairs[1:]:
                global_cost = _global_cost(pair, cost, temperature, settings, solver)
                value = value - global_cost / 2
        costs.append(value)
    each = torch.stack(costs) if costs else student.new_zeros(0, dtype=wide)
    if reduction == "none":
        return each
    if reduction == "sum":
        return each.sum()
    return each.sum() / (student_mask.any(1) & teacher_mask.any(1)).sum().clamp_min(1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pair:
    """Two lists of vectors by their inner products alone."""

    left: Tensor
    """(N, C)."""
    right: Tensor
    """(M, C), so that left @ right.T are the products."""
    left_square: Tensor
    """(N,) products of the left with themselves."""
    right_square: Tensor
    """(M,)."""
    width: int

    def rows(self) -> Iterator[slice]:
        """Blocks of the left."""
        step = max(1, _BLOCK // len(self.right))
        for start in range(0, len(self.left), step):
            yield slice(start, start + step)


def _pairs(x: Tensor, y: Tensor, geometry: Geometry | None) -> list[_Pair]:
    """Student with teacher, student with itself, teacher with itself."""
    if geometry is None:
        squares, width = (x.square().sum(1), y.square().sum(1)), x.shape[1]
        sides = (x, y, 0, 1), (x, x, 0, 0), (y, y, 1, 1)
    else:
        student_gram, teacher_gram, between = (
            g.to(x.dtype)
            for g in (geometry.student, geometry.teacher, geometry.between)
        )
        with without_autocast(x):
            turned, met = (x @ student_gram, y @ teacher_gram), y @ between.T
        squares = (turned[0] * x).sum(1), (turned[1] * y).sum(1)
        sides = (x, met, 0, 1), (x, turned[0], 0, 0), (y, turned[1], 1, 1)
        width = geometry.width
    return [
        _Pair(
            left=a,
            right=b,
            left_square=squares[i],
            right_square=squares[j],
            width=width,
        )
        for a, b, i, j in sides
    ]


def _cost_rows(
    pair: _Pair, rows: slice, kind: SequenceCost, temperature: float
) -> Tensor:
    """(n, M) of some of the left."""
    with without_autocast(pair.left):  # 1 - cos is what is left of a difference
        products = pair.left[rows] @ pair.right.T
    if kind == "softmax":
        return 1 - (products / (temperature * pair.width**0.5)).softmax(1)
    left, right = pair.left_square[rows, None], pair.right_square
    if kind == "squared":
        return (left + right - 2 * products).clamp_min(0) / pair.width
    tiny = 1e-12
    return 1 - products * (left.clamp_min(tiny) * right.clamp_min(tiny)).rsqrt()


def _global_cost(
    pair: _Pair,
    kind: SequenceCost,
    temperature: float,
    settings: TransportSettings,
    solver: str,
) -> Tensor:
    """The cost of one plan, with its gradient by the envelope theorem."""
    with torch.no_grad():
        cost = pair.left.new_empty(len(pair.left), len(pair.right))
        for rows in pair.rows():
            cost[rows] = _cost_rows(pair, rows, kind, temperature)
        if solver == "exact":
            even = [cost.new_full((1, n), 1 / n) for n in cost.shape]
            exact = TransportSettings("exact")
            solution = solve(even[0], even[1], cost[None], exact, with_plan=True)
            assert solution.plan is not None
            value, plan = solution.cost[0], solution.plan[0]
        else:
            value, phi, psi = _sinkhorn(cost, settings)
        del cost

    def paid(rows: slice) -> Tensor:
        """What the plan of some rows pays; its derivative is that of the optimum."""
        cost = _cost_rows(pair, rows, kind, temperature)
        if solver == "exact":
            return (plan[rows] * cost).sum()
        log_plan = phi[rows, None] + psi - cost.detach() / settings.epsilon
        mass = log_plan.exp_() / cost.shape[1] / len(pair.left)
        return (mass * cost).sum()

    if not (pair.left.requires_grad or pair.right.requires_grad):
        return value
    total = torch.stack(
        [checkpoint(paid, rows, use_reentrant=False) for rows in pair.rows()]
    ).sum()
    return value + (total - total.detach())


def _sinkhorn(
    cost: Tensor, settings: TransportSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Regularised cost and both potentials (N,), (M,) over epsilon; eats ``cost``.

    One sweep over blocks of rows updates both: a block's row potentials are final as
    soon as it is read, and its share of every column can be added at once.
    """
    kernel = cost.div_(-settings.epsilon)
    log_a, log_b = (-math.log(n) for n in cost.shape)
    step = max(1, _BLOCK // cost.shape[1])
    phi, psi = cost.new_zeros(cost.shape[0]), cost.new_zeros(cost.shape[1])
    for sweep in range(settings.iterations):
        before, column = phi, torch.full_like(psi, -math.inf)
        parts = []
        for rows in kernel.split(step):
            part = -(rows + (psi + log_b)).logsumexp(1)
            column = column.logaddexp((rows + (part + log_a)[:, None]).logsumexp(0))
            parts.append(part)
        phi, psi = torch.cat(parts), -column
        if sweep and sweep % _CHECK_EVERY == 0:
            # the rows of the plan before this sweep, whose columns were right
            wrong = torch.expm1(before - phi).abs().mean()
            if not bool(wrong > settings.tolerance):
                break
    return settings.epsilon * (phi.mean() + psi.mean()), phi, psi


def _solver(settings: TransportSettings, pair: _Pair) -> str:
    solver = settings.solver_on(pair.left.device)
    small = len(pair.left) * len(pair.right) <= _EXACT
    if settings.solver == "auto" and not small:
        return "sinkhorn"
    return solver


def _check(
    student: Tensor,
    teacher: Tensor,
    student_mask: Tensor,
    teacher_mask: Tensor,
    geometry: Geometry | None,
) -> None:
    sides = ("student", student, student_mask), ("teacher", teacher, teacher_mask)
    for name, x, mask in sides:
        if x.dim() != 3 or mask.shape != x.shape[:2] or len(x) != len(student):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)} and its mask {tuple(mask.shape)}; "
                f"give ({len(student)}, T, C) and ({len(student)}, T)"
            )
    widths = student.shape[2], teacher.shape[2]
    if geometry is None and widths[0] != widths[1]:
        raise ValueError(
            f"student is {widths[0]} wide and teacher {widths[1]}; project one of "
            "them, or give a geometry such as logit_geometry(student_head, "
            "teacher_head)"
        )
    if geometry is not None and geometry.between.shape != widths:
        raise ValueError(
            f"geometry is between widths {tuple(geometry.between.shape)}, student and "
            f"teacher are {widths} wide; give the geometry of these two models"
        )


def _check_choices(cost: str, reduction: str, temperature: float) -> None:
    if cost not in get_args(SequenceCost):
        raise ValueError(f"cost is {cost!r}; give {', '.join(get_args(SequenceCost))}")
    if reduction not in get_args(Reduction):
        raise ValueError(
            f"reduction is {reduction!r}; give {', '.join(get_args(Reduction))}"
        )
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be > 0 and finite, got {temperature}")
