"""What distances between next-token distributions cost beside what they must."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from align.tokens.batch import TokenBatch
from align.views import LinearHead
from experiments.bench.losses.memory import extra_bytes
from experiments.bench.measure import Bar, paired_ratio
from student.objective import HiddenOutput, StepContext
from student.output.divergence.divergence import divergence
from student.output.divergence.linear_divergence import HeadInput, linear_divergence
from student.terms.key_value import ce

VOCABULARY = 151_936
TOKENS, WIDTH = 128, 896
NARROW = 256
"""Width at which memory is measured, so that the heads are not most of it."""
BLOCK = 64
"""Tokens of a block where memory is measured."""


def bars(vocabulary: int = VOCABULARY, rounds: int = 7) -> list[Bar]:
    """Time and memory of the fused distance.

    Args:
        vocabulary: V.
        rounds: pairs of each ratio.
    """
    return [
        Bar(
            f"fused linear KL / four matrix products, {TOKENS} x {WIDTH}",
            _against_products(vocabulary, rounds),
            1.15,
        ),
        *_memory(vocabulary),
        *_from_logits(vocabulary, rounds),
    ]


def _against_products(vocabulary: int, rounds: int) -> float:
    hidden, weight, teacher = problem(TOKENS, WIDTH, vocabulary)
    assert isinstance(teacher.head, LinearHead)
    head = teacher.head.weight
    gradient = torch.randn(TOKENS, vocabulary) / vocabulary

    def fused() -> Tensor:
        hidden.grad = weight.grad = None
        loss = linear_divergence(hidden, LinearHead(weight), [teacher], block=TOKENS)
        loss.backward()
        return loss

    def products() -> None:
        with torch.no_grad():
            hidden @ weight.T
            teacher.hidden @ head.T
            gradient @ weight
            gradient.T @ hidden

    return paired_ratio(fused, products, rounds)


def _memory(vocabulary: int) -> list[Bar]:
    """Peak beyond the inputs, against the least that it may be, and its growth."""
    allowed = 4 * BLOCK * vocabulary * 4 + vocabulary * NARROW * 4
    few, many = (extra_bytes(fused_step, n, vocabulary) for n in (512, 2048))
    return [
        Bar("its extra memory / (4 blocks of logits + dW)", many / allowed, 1.25),
        Bar("its extra memory, 2,048 tokens / 512 tokens", many / few, 1.1),
        Bar(
            "a run's next-token loss: 2,048 tokens / 512 tokens", _own(vocabulary), 1.1
        ),
    ]


def _own(vocabulary: int) -> float:
    """Growth of the memory of a run's own next-token loss with its tokens."""
    few, many = (extra_bytes(own_step, n, vocabulary) for n in (512, 2048))
    print(
        f"a run's next-token loss takes {many / 2**20:.0f} MiB at 2,048 tokens, whose "
        f"logits alone are {2048 * vocabulary * 4 / 2**20:,.0f} MiB"
    )
    return many / few


def fused_step(tokens: int, vocabulary: int) -> Callable[[], None]:
    """A forward and backward at the width of the memory bars, ready to run."""
    hidden, weight, teacher = problem(tokens, NARROW, vocabulary)

    def run() -> None:
        head = LinearHead(weight)
        linear_divergence(hidden, head, [teacher], block=BLOCK).backward()

    return run


def own_step(tokens: int, vocabulary: int) -> Callable[[], None]:
    """A forward and backward of the student's own loss, ready to run."""
    hidden, weight, _ = problem(tokens, NARROW, vocabulary)
    ids = torch.randint(vocabulary, (1, tokens))
    spans = torch.zeros(1, tokens, 2, dtype=torch.int64)
    batch = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool), spans, ("",))

    def run() -> None:
        output = HiddenOutput(hidden[None], LinearHead(weight))
        ce(StepContext(batch=batch, output=output)).backward()

    return run


def _from_logits(vocabulary: int, rounds: int) -> list[Bar]:
    student, teacher = (torch.randn(TOKENS, vocabulary) * 3 for _ in range(2))
    student.requires_grad_()

    def step(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            student.grad = None
            loss().backward()

        return run

    def target_probabilities() -> Tensor:
        return F.kl_div(
            student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean"
        )

    def target_logs() -> Tensor:
        log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)

    def written_out() -> Tensor:
        log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean()

    def least() -> None:
        with torch.no_grad():
            torch.sub(student, teacher)

    chains = (target_probabilities, target_logs, written_out)
    ours = step(lambda: divergence(student, teacher))
    worst = max(paired_ratio(ours, step(chain), rounds) for chain in chains)
    floor = max(paired_ratio(least, step(chain), rounds) for chain in chains)
    print(
        "reading both logits once and writing a gradient once takes "
        f"{floor:.2f} of the fastest unfused chain"
    )
    return [Bar("KL from given logits / fastest unfused chain", worst, 0.25)]


def problem(
    tokens: int, width: int, vocabulary: int
) -> tuple[Tensor, Tensor, HeadInput]:
    """A student's hidden states and head, with gradients, and a teacher."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = (torch.randn(vocabulary, width) / width**0.5).requires_grad_()
    head = LinearHead(torch.randn(vocabulary, width) / width**0.5)
    return hidden, weight, HeadInput(torch.randn(tokens, width), head)
