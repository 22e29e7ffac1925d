"""Distances and cross-entropy through two language-model heads, without their logits.

Blocks of tokens are walked over. A block's logits live just long enough for the loss
and for its gradients to the student's hidden states and head, which are found in the
forward: four matrix products a block (student's logits, teacher's logits, and the two
gradients), and memory that does not grow with the number of tokens.

Source:
    Computing a head's gradients with its loss, block by block: Liger Kernel, Hsu et
    al. 2024 (arXiv 2410.10989), sec. 3.2; here with a second head, weights per token
    and a label loss from the same student logits. The loss is reduced within rows, then
    in float64: one float32 sum over all numbers was 0.2 % wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from align.products.autocast import without_autocast
from align.tokens.named_head import NamedHead
from align.views import Head, LinearHead
from student.output.divergence.labels import Labels, check_labels, cross_entropy_
from student.output.divergence.linear import (
    BLOCK,
    HeadGradients,
    LogitBuffer,
    check_head,
    product_dtype,
)
from student.output.divergence.row_divergence import Divergence, pull_
from student.output.divergence.rows import shares, temperatures


@dataclass(frozen=True, slots=True, eq=False)
class HeadInput:
    """A teacher's side: what its head is given, and the head."""

    hidden: Tensor
    """(N, C) float, detached, at the student's rows."""
    head: Head
    log_share: Tensor | None = None
    """(N,) float, log of its share in a mean of several teachers' distributions, -inf
    where it has none; None: one teacher."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Plan:
    """Everything that is not differentiated."""

    teachers: Sequence[HeadInput]
    settings: Divergence
    row_temperature: Tensor
    scale: Tensor
    labels: Labels | None
    block: int
    dtype: torch.dtype
    """Of the matrix products."""


def linear_divergence(
    hidden: Tensor,
    head: LinearHead,
    teachers: Sequence[HeadInput],
    settings: Divergence | None = None,
    *,
    temperature: float | Tensor = 1.0,
    weight: Tensor | None = None,
    total: Tensor | float | None = None,
    labels: Labels | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Mean distance of a student's next-token distribution to its teachers'.

    Args:
        hidden: (N, C) float, the student's last hidden states.
        head: the student's, (V, C).
        teachers: of the same vocabulary; several are averaged as distributions by
            ``log_share``, none leaves the labels alone. Heads of unequal size count up
            to the smallest: the other rows round a size up (151,936 and 152,064).
        settings: which distance; None: forward KL over the whole vocabulary.
        temperature: > 0, one for all or (N,); of the distance, not of the labels.
        weight: (N,) float >= 0 of the distance; None: 1.
        total: > 0, what the weighted sum of the distance is divided by; None: the sum
            of ``weight``.
        labels: adds ``sum(labels.weight x cross-entropy)``, over the student's whole
            head.
        block: tokens whose logits are held at once, >= 1.

    Matrix products are in the head's dtype, or in bfloat16 under such an autocast; the
    head's gradient is summed in float32 all the same. Under float16 they are in
    float32, because a gradient divided by its tokens is too small for it.

    Returns:
        A scalar in float32 (float64 for float64 hidden states), nats, with gradients
        to ``hidden``, ``head.weight`` and ``head.bias``.

    Raises:
        ValueError: shapes do not belong together, or a number is out of range.
    """
    rows = len(hidden)
    _check(hidden, head, teachers, labels, block)
    dtype = product_dtype(hidden, head)
    plan = _Plan(
        teachers=[_in_dtype(teacher, dtype) for teacher in teachers],
        settings=settings or Divergence(),
        row_temperature=temperatures(temperature, rows, hidden),
        scale=shares(weight, rows, hidden, total),
        labels=labels,
        block=block,
        dtype=dtype,
    )
    loss: Tensor = _Fused.apply(hidden, head.weight, head.bias, plan)
    return loss


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan
    ) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(hidden, weight, bias)
        wanted = ctx.needs_input_grad[:3]
        with without_autocast(hidden):
            loss, ctx.gradients = _Walk(plan, hidden, weight, bias, wanted).done()
        return loss.to(plan.scale.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # given away, never copied
        hidden, weight, bias = ctx.saved_tensors
        if gradients is None:  # a second time through a kept graph
            wanted = ctx.needs_input_grad[:3]
            with without_autocast(hidden):
                _, gradients = _Walk(ctx.plan, hidden, weight, bias, wanted).done()
        return *gradients.times_(grads[0], hidden.dtype, weight.dtype), None


class _Walk:
    """Over blocks of tokens, with the memory that all of them share."""

    def __init__(
        self,
        plan: _Plan,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        wanted: Sequence[bool],
    ) -> None:
        self._plan, self._hidden = plan, hidden
        self._head = LinearHead(weight.to(plan.dtype), bias)
        self._found = HeadGradients.zeros(wanted, hidden, weight, bias)
        size, wide = self._head.size, plan.scale.dtype
        self._width = min([size, *(t.head.size for t in plan.teachers)])
        most = min(plan.block, len(hidden))
        self._logits = LogitBuffer(most, size, wide)
        several = len(plan.teachers) > 1
        self._targets = [
            LogitBuffer(most, self._width, wide) for _ in range(1 + several)
        ]

    def done(self) -> tuple[Tensor, HeadGradients]:
        """Loss (float64) and gradients."""
        plan, head = self._plan, self._head
        total = torch.zeros((), dtype=torch.float64, device=self._hidden.device)
        for rows in _used_rows(plan):
            block = self._hidden[rows].to(plan.dtype)
            logits = self._logits.fill(block, head)
            total += self._block_(logits, rows)
            self._found.add(rows, logits, block, head.weight, self._logits)
        return total, self._found

    def _block_(self, logits: Tensor, rows: Tensor) -> Tensor:
        """A block's loss (float64 scalar); its logits become the gradient to them."""
        plan, width = self._plan, self._width
        labels = plan.labels
        if not plan.teachers:
            assert labels is not None
            return cross_entropy_(logits, labels, rows)
        scale = plan.scale[rows]
        hard: Tensor | None = None
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        if labels is not None:
            hard = logits.clone()
            total += cross_entropy_(hard, labels, rows)
        target = self._target(rows)
        losses = pull_(
            logits[:, :width], target, plan.settings, plan.row_temperature[rows], scale
        )
        total += (losses.double() * scale.double()).sum()
        logits[:, width:] = 0
        if hard is not None:
            logits += hard
        return total

    def _target(self, rows: Tensor) -> Tensor:
        """(n, V) scaled logits of one teacher, or log of several teachers' mean."""
        row_temperature = self._plan.row_temperature[rows]
        mean: Tensor | None = None
        for teacher in self._plan.teachers:
            buffer = self._targets[0 if mean is None else 1]
            logits = buffer.fill(teacher.hidden[rows], teacher.head.first(self._width))
            if not bool((row_temperature == 1).all()):
                logits.div_(row_temperature[:, None])
            if teacher.log_share is None:
                return logits
            torch.log_softmax(logits, -1, out=logits)
            logits += teacher.log_share[rows].clamp_min(-1e30)[:, None]
            mean = logits if mean is None else torch.logaddexp(mean, logits, out=mean)
        assert mean is not None
        return mean


def _used_rows(plan: _Plan) -> Iterator[Tensor]:
    """Blocks of the rows that count."""
    used = plan.scale > 0 if plan.teachers else torch.zeros_like(plan.scale).bool()
    if plan.labels is not None:
        used = used | (plan.labels.weight > 0)
    yield from used.nonzero()[:, 0].split(plan.block) if bool(used.any()) else ()


def _in_dtype(teacher: HeadInput, dtype: torch.dtype) -> HeadInput:
    """A teacher whose products are in ``dtype``, or in its own if that is narrower."""
    if isinstance(teacher.head, NamedHead):
        return replace(teacher, hidden=teacher.hidden.detach())
    head_dtype = teacher.head.weight.dtype
    narrow = head_dtype if head_dtype.itemsize < dtype.itemsize else dtype
    head = LinearHead(teacher.head.weight.detach().to(narrow), teacher.head.bias)
    return replace(teacher, hidden=teacher.hidden.detach().to(narrow), head=head)


def _check(
    hidden: Tensor,
    head: LinearHead,
    teachers: Sequence[HeadInput],
    labels: Labels | None,
    block: int,
) -> None:
    check_head("student", hidden, head)
    for m, teacher in enumerate(teachers):
        check_head(f"teachers[{m}]", teacher.hidden, teacher.head)
        if len(teacher.hidden) != len(hidden):
            raise ValueError(
                f"teachers[{m}] has {len(teacher.hidden)} rows, the student "
                f"{len(hidden)}; give its hidden states at the student's rows"
            )
    if len(teachers) > 1 and any(t.log_share is None for t in teachers):
        raise ValueError(
            f"{len(teachers)} teachers without shares; give each a log_share (N,)"
        )
    if block < 1:
        raise ValueError(f"block must be >= 1, got {block}")
    if labels is not None:
        check_labels(labels, len(hidden), head.size)
