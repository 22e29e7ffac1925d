"""What transport between next tokens, and between sequences, costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from align.views import LinearHead
from experiments.bench.losses.memory import extra_bytes
from experiments.bench.measure import Bar, paired_ratio
from student.output.transport.geometry import logit_geometry
from student.output.transport.sequence import sequence_transport
from student.output.transport.solver import TransportSettings, transport_cost
from student.output.transport.token import cosine_cost

ROWS, TOP, WIDTH = 512, 50, 64
EPSILON, ITERATIONS = 0.05, 100
CHECKED = 16
"""Problems whose optimum an independent solver confirms."""
LENGTH = 4096
"""Tokens on either side where the memory of a sequence's transport is measured."""
SMALL, LARGE = 1024, 151_936
"""Vocabularies between which that memory may not differ."""


def bars(rounds: int = 7) -> list[Bar]:
    """Time and exactness over likeliest tokens, and the memory of sequences.

    Args:
        rounds: pairs of each ratio.
    """
    p, q, cost = problem()
    exact = TransportSettings("exact")

    def ours() -> None:
        source = p.clone().requires_grad_()
        transport_cost(source, q, cost, exact).sum().backward()

    def sinkhorn() -> None:
        enveloped_sinkhorn(p, q, cost)

    ratio = paired_ratio(ours, sinkhorn, rounds)
    bare = paired_ratio(bare_solver(p, q, cost), sinkhorn, rounds)
    gap = (transport_cost(p, q, cost, exact)[:CHECKED] - programme(p, q, cost)).abs()
    bias = enveloped_sinkhorn(p, q, cost)[0][:CHECKED] / programme(p, q, cost) - 1
    print(
        f"Sinkhorn at epsilon {EPSILON} is {bias.mean():.1%} above the linear "
        "programme, the exact solver is not; POT's solver called by itself on the same "
        f"problems takes {bare:.2f} times as long as that Sinkhorn"
    )
    name = f"top-{TOP} transport, {ROWS} rows"
    return [
        Bar(f"{name} / enveloped Sinkhorn-{ITERATIONS}", ratio, 0.7),
        Bar(f"{name}: gap to the linear programme x 1e6", float(gap.max()) * 1e6, 1),
        *_memory(),
    ]


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Distributions over likeliest tokens and the cosine cost of random vectors."""
    torch.manual_seed(0)
    p, q = ((2 * torch.randn(ROWS, TOP)).softmax(-1) for _ in range(2))
    return p, q, cosine_cost(*torch.randn(2, ROWS, TOP, WIDTH))


def enveloped_sinkhorn(p: Tensor, q: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Cost of the entropic plan (P,) and the pull on ``p`` (P, n), the fastest way.

    Exponentials are taken once and every iteration is two batched products; the pull
    is the potential, nothing is differentiated.
    """
    kernel = (-cost / EPSILON).exp()
    v = torch.ones_like(q)
    for _ in range(ITERATIONS):
        u = p / (kernel @ v[:, :, None])[:, :, 0]
        v = q / (u[:, None] @ kernel)[:, 0]
    plan = u[:, :, None] * kernel * v[:, None]
    return (plan * cost).sum((1, 2)), EPSILON * u.log()


def bare_solver(p: Tensor, q: Tensor, cost: Tensor) -> Callable[[], None]:
    """POT's network simplex on arrays that are ready for it, and nothing else."""
    from ot.lp.emd_wrap import emd_c

    left, right = (x.double() / x.double().sum(1, keepdim=True) for x in (p, q))
    arrays = [x.contiguous().numpy() for x in (left, right, cost.double())]

    def run() -> None:
        for problem in zip(*arrays, strict=True):
            emd_c(*problem, 1_000_000, 1)

    return run


def programme(p: Tensor, q: Tensor, cost: Tensor) -> Tensor:
    """(CHECKED,) optimum by SciPy's linear programming."""
    from scipy.optimize import linprog

    ones, eye = np.ones((1, TOP)), np.eye(TOP)
    marginals = np.concatenate([np.kron(eye, ones), np.kron(ones, eye)])
    distances = []
    for n in range(CHECKED):
        masses = [x[n].double().numpy() for x in (p, q)]
        masses = [x / x.sum() for x in masses]
        price = cost[n].double().numpy().ravel()
        solved = linprog(price, A_eq=marginals[:-1], b_eq=np.concatenate(masses)[:-1])
        distances.append(solved.fun)
    return torch.tensor(distances)


def sequence(length: int, vocabulary: int) -> Callable[[], object]:
    """One step over a text, hidden states compared as logits."""
    torch.manual_seed(0)
    states = torch.randn(2, 1, length, WIDTH)
    heads = [LinearHead(torch.randn(vocabulary, WIDTH)) for _ in range(2)]
    mask = torch.ones(1, length, dtype=torch.bool)
    few = TransportSettings("sinkhorn", iterations=5)

    def step() -> None:
        student = states[0].requires_grad_()
        geometry = logit_geometry(*heads)
        loss = sequence_transport(
            student, states[1], mask, mask, geometry=geometry, settings=few
        )
        loss.backward()

    return step


def _memory() -> list[Bar]:
    half, whole, wide = (
        extra_bytes(sequence, *sizes)
        for sizes in ((LENGTH // 2, SMALL), (LENGTH, SMALL), (LENGTH, LARGE))
    )
    print(
        f"a sequence's transport takes {whole / 2**20:.0f} MiB at {LENGTH} x {LENGTH} "
        f"tokens, {whole / (4 * LENGTH**2):.1f} times one similarity in float32"
    )
    name = f"sequence transport, {LENGTH} x {LENGTH}"
    return [
        Bar(f"{name}: memory / that of half the tokens", whole / half, 4.4),
        Bar(f"{name}: V = {LARGE:,} / V = {SMALL:,}", wide / whole, 1.2),
    ]
