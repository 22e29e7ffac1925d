"""Compare next-token vectors, a block of places at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from align.views import LinearHead
from student.output.divergence.linear import logits_of, product_dtype
from student.output.divergence.linear_blocks import linear_blocks
from student.step_outputs import Outputs, Taught

Compare = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A distance's own call."""


class Takes(Protocol):
    """Whom a term compares."""

    def __call__(self, teacher: str) -> bool:
        """Whether it does, by name."""


def logit_costs(
    outputs: Outputs, distance: Compare, takes: Takes
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the places of one pass cost, teacher by teacher, and what they weigh.

    Logits are taken from their mean over the vocabulary, on which no probability
    depends: so ``cosine`` is 1 - their correlation, and ``mse`` their squared
    difference however the two are shifted. No more than ``output.block`` places have
    logits at once, and places without weight have none.

    Args:
        outputs: the student's next-token output beside its teachers'.
        distance: that compares every token by itself.
        takes: teachers; those of another vocabulary are left out.

    Yields:
        Two scalars: the sum over places by weight, with the student's gradient, and
        the weight.
    """
    for taught in outputs.teachers:
        if takes(taught.name) and outputs.speaks_alike(taught):
            yield _cost(outputs, taught, distance)


def _cost(outputs: Outputs, taught: Taught, distance: Compare) -> tuple[Tensor, Tensor]:
    pairing, student, teacher = outputs.pairing(taught), outputs.student, taught.output
    weight = pairing.same_next(taught.weight)
    total, rows = weight.sum(), weight.nonzero()[:, 0]
    if not len(rows):
        return weight.new_zeros(()), total
    weight = weight[rows]
    theirs = teacher.hidden.flatten(0, 1)[pairing.same.flatten()[rows]].detach()
    size = min(student.head.size, teacher.head.size)
    own_head, their_head = student.matrix.first(size), teacher.matrix.first(size)
    dtype = product_dtype(theirs, their_head)
    their_head = LinearHead(their_head.weight.to(dtype), their_head.bias)

    def of_block(logits: Tensor, _: Tensor, block: slice) -> Tensor:
        with torch.no_grad():
            said = logits_of(theirs[block].to(dtype), their_head, logits.dtype)
        target = _centred(said)
        known = weight[block].to(logits.dtype)
        pred = _centred(logits)
        apart = distance(pred[None, None], target[None, None], known[None, None])
        return (apart[0, 0] * known).sum()

    hidden = student.hidden.flatten(0, 1)[rows]
    return linear_blocks(hidden, own_head, of_block, block=outputs.config.block), total


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)
