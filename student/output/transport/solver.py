"""Optimal transport between two histograms, many small problems at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align.errors import MissingPackageError, RunError

Solver = Literal["auto", "exact", "sinkhorn"]

_ENTRIES = 1 << 22
"""Entries of the cost matrices that Sinkhorn holds in one block."""
_CHECK_EVERY = 10
_PIVOTS = 1_000_000
_OPTIMAL = 1  # what POT's solver returns where it proved its plan to be the best
_GUESS = 0.03
"""Entropy of the guess at the potentials, in units of the mean cost."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """How a transport problem is solved."""

    solver: Solver = "auto"
    """``exact``: the linear programme, on the CPU one problem after another (needs
    POT); ``sinkhorn``: entropic, on any device, all at once; ``auto``: exact on a CPU,
    where it costs no more than a hundred steps of Sinkhorn or so and has no bias, else
    sinkhorn."""
    epsilon: float = 0.05
    """Weight of the entropy, in units of the cost, > 0; of ``sinkhorn`` alone."""
    iterations: int = 500
    """Most updates of both potentials, >= 1; of ``sinkhorn`` alone."""
    tolerance: float = 1e-4
    """Mass in the wrong rows (L1 norm) at which ``sinkhorn`` stops, >= 0."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a value is out of range.
        """
        if self.solver not in get_args(Solver):
            raise ValueError(
                f"solver is {self.solver!r}; give {', '.join(get_args(Solver))}"
            )
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon must be > 0 and finite, got {self.epsilon}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be >= 1, got {self.iterations}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be >= 0, got {self.tolerance}")

    def solver_on(self, device: torch.device) -> Solver:
        """The solver that is used on a device."""
        if self.solver != "auto":
            return self.solver
        return "exact" if device.type == "cpu" else "sinkhorn"


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What solving P problems found; nothing of it is differentiated."""

    cost: Tensor
    """(P,) the least cost; of ``sinkhorn`` the regularised one, see :func:`solve`."""
    source: Tensor
    """(P, n) potentials: the derivative of ``cost`` by the source's mass."""
    target: Tensor
    """(P, m) potentials: the derivative of ``cost`` by the target's mass."""
    plan: Tensor | None
    """(P, n, m) mass carried from each to each; None where it was not asked for."""


def transport_cost(
    source: Tensor,
    target: Tensor,
    cost: Tensor,
    settings: TransportSettings | None = None,
) -> Tensor:
    """Least cost of turning one histogram into another, differentiable in all three.

    The plan is not differentiated: at the optimum the derivative by a mass is its
    potential and by a cost the mass that pays it, whatever the solver did to get there.
    A potential is known up to a constant, so only changes that keep the total mass, as
    a softmax makes them, mean something.

    Args:
        source: (P, n) float >= 0, rows sum to 1.
        target: (P, m) float >= 0, rows sum to 1.
        cost: (P, n, m) float.
        settings: how; None takes the defaults.

    Returns:
        (P,), at least float32. A row that holds a number which is not finite gives NaN.

    Raises:
        ValueError: the shapes do not match.
        ImportError: the exact solver is asked for and POT is not installed.

    Source:
        See :func:`solve`; the envelope theorem (Milgrom and Segal 2002) in place of
        differentiating through iterations.
    """
    return _Transport.apply(source, target, cost, settings or TransportSettings())


def solve(
    source: Tensor,
    target: Tensor,
    cost: Tensor,
    settings: TransportSettings,
    with_plan: bool = False,
) -> Solution:
    """Solve P problems; see :func:`transport_cost` for shapes, dtypes and errors.

    Args:
        source: (P, n).
        target: (P, m).
        cost: (P, n, m).
        settings: how.
        with_plan: keep the plans.

    Source:
        exact: min over plans P >= 0 with these marginals of <P, C>, and its dual
        (Kantorovich 1942), by POT's network simplex.
        sinkhorn: min of <P, C> + epsilon KL(P || source x target) (Cuturi 2013, with
        the KL of Peyre and Cuturi 2019, eq. 4.9), by log-domain updates of the dual
        (ibid., remark 4.23).
    """
    check_problem(source, target, cost)
    wide = torch.promote_types(source.dtype, torch.float32)
    with torch.no_grad():
        a, b, c = (x.detach().to(wide) for x in (source, target, cost))
        if settings.solver_on(c.device) == "exact":
            return _exact(a, b, c, with_plan)
        size = max(1, _ENTRIES // max(1, c.shape[1] * c.shape[2]))
        blocks = zip(a.split(size), b.split(size), c.split(size), strict=True)
        return _join([_sinkhorn(*block, settings, with_plan) for block in blocks])


def check_problem(source: Tensor, target: Tensor, cost: Tensor) -> None:
    """Refuse histograms and costs that do not belong together.

    Raises:
        ValueError: naming the shapes.
    """
    fits = source.dim() == target.dim() == 2 and len(source) == len(target)
    if not fits or cost.shape != (*source.shape, target.shape[1]):
        raise ValueError(
            f"source {tuple(source.shape)}, target {tuple(target.shape)} and cost "
            f"{tuple(cost.shape)} are not of one problem; give (P, n), (P, m) and "
            "(P, n, m)"
        )


class _Transport(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        source: Tensor,
        target: Tensor,
        cost: Tensor,
        settings: TransportSettings,
    ) -> Tensor:
        solution = solve(source, target, cost, settings, ctx.needs_input_grad[2])
        ctx.dtypes = source.dtype, target.dtype, cost.dtype
        ctx.save_for_backward(solution.source, solution.target, solution.plan)
        return solution.cost

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        shapes = (-1, 1), (-1, 1), (-1, 1, 1)
        wanted = zip(
            ctx.needs_input_grad, ctx.saved_tensors, shapes, ctx.dtypes, strict=False
        )
        pulls = [
            (grads[0].view(shape) * gradient).to(dtype) if wants else None
            for wants, gradient, shape, dtype in wanted
        ]
        return (*pulls, None)


def _exact(a: Tensor, b: Tensor, cost: Tensor, with_plan: bool) -> Solution:
    try:
        from ot.lp.emd_wrap import emd_c  # ot.emd checks twice as long as this solves
    except ImportError as error:
        raise MissingPackageError(
            "the exact transport solver needs POT: pip install 'mtkd[ot]', or choose "
            "the solver 'sinkhorn'"
        ) from error
    masses = [x.cpu().double() for x in (a, b)]
    weights = [x / x.sum(1, keepdim=True) for x in masses]
    left, right = (x.numpy() for x in weights)
    wide = cost.cpu().double()
    known = _guess(weights[0], weights[1], wide)
    price = (wide - known[0][:, :, None] - known[1][:, None]).numpy()
    full = ((weights[0] > 0).all(1) & (weights[1] > 0).all(1)).tolist()
    solution = [np.full(x.shape, math.nan) for x in (left[:, 0], left, right)]
    plan = np.full(price.shape, math.nan) if with_plan else None
    finite = torch.isfinite(a.sum(1) + b.sum(1) + cost.sum((1, 2)))
    for p in finite.nonzero()[:, 0].tolist():
        if full[p]:
            solved = emd_c(left[p], right[p], price[p], _PIVOTS, 1)
        else:
            solved = _of_positive_mass(emd_c, left[p], right[p], price[p])
        paid, solution[0][p], solution[1][p], solution[2][p], code = solved
        if code != _OPTIMAL:
            raise RunError(
                f"POT ended problem {p} of {price.shape[1]} x {price.shape[2]} without "
                f"an optimum (code {code}); choose the solver 'sinkhorn'"
            )
        if plan is not None:
            plan[p] = paid
    value, source, target = (torch.from_numpy(x) for x in solution)
    for weight, potential in zip(weights, known, strict=True):
        value += (weight * potential).sum(1)
    parts = [x.to(a) for x in (value, source + known[0], target + known[1])]
    kept = None if plan is None else torch.from_numpy(plan).to(a)
    return _centred(Solution(parts[0], parts[1], parts[2], kept), a)


def _guess(a: Tensor, b: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials (P, n) and (P, m), taken off the cost before it is minimised.

    That changes the optimum by a known number and no plan, whatever they are; near the
    right ones the simplex has fewer pivots left to make. Two updates of
    Sinkhorn, in single precision.
    """
    a, b = a.float(), b.float()
    smoothing = _GUESS * cost.mean((1, 2), keepdim=True).float().clamp_min(1e-30)
    kernel = cost.float().div_(-smoothing).exp_()
    v = torch.ones_like(b)
    for _ in range(2):
        u = a / (kernel @ v[:, :, None])[:, :, 0]
        v = b / (u[:, None] @ kernel)[:, 0]
    potentials = (smoothing[:, 0] * x.log() for x in (u, v))
    first, second = (x.nan_to_num(0.0, 0.0, 0.0).double() for x in potentials)
    return first, second


def _of_positive_mass(
    emd: Callable[..., Any], a: Array, b: Array, cost: Array
) -> tuple[Array, float, Array, Array, int]:
    """Solve without empty rows and columns, for which the solver's potentials mean
    nothing, and give those the largest potentials that the others allow."""
    rows, cols = a > 0, b > 0
    some = np.ascontiguousarray(cost[rows][:, cols])
    paid, value, u, v, code = emd(a[rows], b[cols], some, _PIVOTS, 1)
    plan, source, target = (np.zeros(x.shape) for x in (cost, a, b))
    plan[np.ix_(rows, cols)], source[rows], target[cols] = paid, u, v
    # Kantorovich's dual asks for u_i + v_j <= C_ij, so the largest potential of an
    # empty row is min_j (C_ij - v_j), its c-transform.
    source[~rows] = (cost[~rows][:, cols] - v).min(1)
    target[~cols] = (cost[rows][:, ~cols] - u[:, None]).min(0)
    return plan, value, source, target, code


def _sinkhorn(
    a: Tensor, b: Tensor, cost: Tensor, settings: TransportSettings, with_plan: bool
) -> Solution:
    # In units of epsilon: phi_i = -log sum_j b_j exp(psi_j - C_ij / epsilon), and psi
    # likewise. Logarithms, because exp(-C / epsilon) underflows where epsilon is small.
    kernel = -cost / settings.epsilon
    log_a, log_b = a.log(), b.log()
    psi = torch.zeros_like(b)  # potentials in units of epsilon
    phi = -(kernel + log_b[:, None]).logsumexp(2)
    for step in range(1, settings.iterations + 1):
        psi = -(kernel + (phi + log_a)[:, :, None]).logsumexp(1)
        last = step == settings.iterations
        if last or step % _CHECK_EVERY == 0:
            next_phi = -(kernel + (psi + log_b)[:, None]).logsumexp(2)
            # columns are right; row i of the plan holds a_i exp(phi_i - next_phi_i)
            wrong = (a * torch.expm1(phi - next_phi).abs()).sum(1)
            if last or not bool((wrong > settings.tolerance).any()):
                break
            phi = next_phi
        else:
            phi = -(kernel + (psi + log_b)[:, None]).logsumexp(2)
    plan = None
    if with_plan:
        plan = (kernel + (phi + log_a)[:, :, None] + (psi + log_b)[:, None]).exp_()
    source, target = settings.epsilon * phi, settings.epsilon * psi
    # The dual's last term, epsilon (1 - mass of the plan), is 0 once columns are right.
    value = (a * source).sum(1) + (b * target).sum(1)
    return _centred(Solution(value, source, target, plan), a)


def _centred(solution: Solution, a: Tensor) -> Solution:
    """With source potentials of mean 0, moving the constant to the target's."""
    mean = (a * solution.source).sum(1, keepdim=True)
    return Solution(
        solution.cost, solution.source - mean, solution.target + mean, solution.plan
    )


def _join(parts: list[Solution]) -> Solution:
    if len(parts) == 1:
        return parts[0]
    plans = [part.plan for part in parts if part.plan is not None]
    return Solution(
        torch.cat([part.cost for part in parts]),
        torch.cat([part.source for part in parts]),
        torch.cat([part.target for part in parts]),
        torch.cat(plans) if plans else None,
    )
