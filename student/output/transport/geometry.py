"""How the vectors of two models are compared where their widths differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from align.products.autocast import without_autocast
from align.views import LinearHead

_ROWS = 8192
"""Rows of a head that are widened at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Inner products of what two models make of their tokens."""

    student: Tensor
    """(C_s, C_s)."""
    teacher: Tensor
    """(C_t, C_t)."""
    between: Tensor
    """(C_s, C_t)."""
    width: int
    """Numbers that a token's vector has."""


def logit_geometry(student: LinearHead, teacher: LinearHead) -> Geometry:
    """Compare hidden states as the logits they lead to, without making any logits.

    The inner product of two rows of logits, ``(W h) . (W' h') = h^T (W^T W') h'``,
    needs only the small matrix between. Logits are taken from their mean over the
    vocabulary, which no probability depends on.

    Args:
        student: (V, C_s); its gradient is kept.
        teacher: (V', C_t) of the same vocabulary; rows beyond the smaller of V and V',
            which round a size up, are left out.

    Raises:
        ValueError: a head has a bias.
    """
    for name, head in (("student", student), ("teacher", teacher)):
        if head.bias is not None:
            raise ValueError(
                f"the {name}'s head has a bias; give it as a last column of the weight "
                "and append 1 to every hidden state"
            )
    size = min(student.size, teacher.size)
    student_rows, teacher_rows = student.weight[:size], teacher.weight[:size].detach()
    sides = (
        (student_rows, student_rows),
        (teacher_rows, teacher_rows),
        (student_rows, teacher_rows),
    )
    squares = [_centred_products(a, b) for a, b in sides]
    return Geometry(squares[0], squares[1], squares[2], size)


def _centred_products(a: Tensor, b: Tensor) -> Tensor:
    """(C, C') products of columns, each taken from its mean, without wide copies."""
    wide = torch.promote_types(a.dtype, torch.float32)

    def product(a: Tensor, b: Tensor) -> Tensor:
        with without_autocast(a):
            return a.to(wide).T @ b.to(wide)

    means = [x.mean(0, dtype=wide) for x in (a, b)]
    total = -len(a) * torch.outer(*means)
    for parts in zip(a.split(_ROWS), b.split(_ROWS), strict=True):
        total = total + checkpoint(product, *parts, use_reentrant=False)
    return total
