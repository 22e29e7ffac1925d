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

from align.output import LinearHead
from student.output.divergence import (
    Divergence,
    cached_rows,
    pull_,
    shares,
    temperatures,
)

BLOCK = 128
"""Tokens whose logits are held at once."""
_TILE = 8192  # rows of a low-precision head's gradient worked out at once


@dataclass(frozen=True, slots=True, eq=False)
class HeadInput:
    """A teacher's side: what its head is given, and the head."""

    hidden: Tensor
    """(N, C) float, detached, at the student's rows."""
    head: LinearHead
    log_share: Tensor | None = None
    """(N,) float, log of its share in a mean of several teachers' distributions, -inf
    where it has none; None: one teacher."""


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The cross-entropy that is taken from the same logits."""

    ids: Tensor
    """(N,) int64, the token that comes next."""
    weight: Tensor
    """(N,) float >= 0, already divided by what the sum is to be divided by."""
    smoothing: float = 0.0
    """Probability spread evenly over the vocabulary, in [0, 1)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Everything that is not differentiated."""

    teachers: Sequence[HeadInput]
    settings: Divergence
    heat: Tensor
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
        [_in_dtype(teacher, dtype) for teacher in teachers],
        settings or Divergence(),
        temperatures(temperature, rows, hidden),
        shares(weight, rows, hidden),
        labels,
        block,
        dtype,
    )
    loss: Tensor = _Fused.apply(hidden, head.weight, head.bias, plan)
    return loss


def linear_log_likelihood(
    hidden: Tensor, head: LinearHead, ids: Tensor, block: int = BLOCK
) -> Tensor:
    """Log probability of one token a row, through a head.

    Args:
        hidden: (N, C) float.
        head: (V, C).
        ids: (N,) int64, in 0..V-1.
        block: rows whose logits are held at once, >= 1.

    Returns:
        (N,) float32 (float64 for float64 hidden states), nats, with gradients to
        ``hidden`` and the head; the backward works the logits out a second time,
        because the weights of the rows are not known before.

    Raises:
        ValueError: shapes do not belong together, or an id is outside the head.
    """
    _check(hidden, head, (), Labels(ids, ids.new_zeros(len(ids)).float()), block)
    dtype = product_dtype(hidden, head)
    out: Tensor = _LogLikelihood.apply(
        hidden, head.weight, head.bias, ids, block, dtype
    )
    return out


@dataclass(slots=True, eq=False)
class _Gradients:
    """Accumulated over blocks; None where nothing is wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @staticmethod
    def zeros(
        wanted: Sequence[bool], hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> _Gradients:
        wide = torch.promote_types(weight.dtype, torch.float32)
        return _Gradients(
            torch.zeros_like(hidden) if wanted[0] else None,
            torch.zeros_like(weight, dtype=wide) if wanted[1] else None,
            torch.zeros_like(bias, dtype=wide)
            if wanted[2] and bias is not None
            else None,
        )

    def add(
        self, rows: slice | Tensor, logits: Tensor, hidden: Tensor, weight: Tensor
    ) -> None:
        """Carry a block's gradient to its logits (n, V) on to what made them."""
        low = logits.to(weight.dtype)
        if self.hidden is not None:
            self.hidden[rows] = (low @ weight).to(self.hidden.dtype)
        if self.bias is not None:
            self.bias += logits.sum(0)
        if self.weight is None:
            return
        if self.weight.dtype == weight.dtype:
            self.weight.addmm_(low.T, hidden)
            return
        for start in range(
            0, len(self.weight), _TILE
        ):  # products are narrow, sums wide
            tile = slice(start, start + _TILE)
            self.weight[tile] += low[:, tile].T @ hidden


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan
    ) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(hidden, weight, bias)
        loss, ctx.gradients = _walk(
            ctx.needs_input_grad[:3], hidden, weight, bias, plan
        )
        return loss.to(plan.scale.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found, ctx.gradients = ctx.gradients, None  # given away, never copied
        hidden, weight, bias = ctx.saved_tensors
        if found is None:  # a second time through a kept graph
            _, found = _walk(ctx.needs_input_grad[:3], hidden, weight, bias, ctx.plan)
        return (
            _scaled_(found.hidden, grads[0], hidden.dtype),
            _scaled_(found.weight, grads[0], weight.dtype),
            _scaled_(found.bias, grads[0], weight.dtype),
            None,
        )


def _walk(
    wanted: Sequence[bool],
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    plan: _Plan,
) -> tuple[Tensor, _Gradients]:
    """Loss (float64) and gradients, block by block."""
    found = _Gradients.zeros(wanted, hidden, weight, bias)
    weight = weight.to(plan.dtype)
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    own = LinearHead(weight, bias)
    used = plan.scale > 0
    if plan.labels is not None:
        used = used | (plan.labels.weight > 0)
    with _plain(hidden):
        for rows in _blocks(used, plan.block):
            block = hidden[rows].to(plan.dtype)
            logits = logits_of(block, own, plan.scale.dtype)
            total += _block_(logits, rows, plan)
            found.add(rows, logits, block, weight)
    return total, found


def _block_(logits: Tensor, rows: Tensor, plan: _Plan) -> Tensor:
    """A block's loss (float64 scalar); its logits become the gradient to them."""
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    extra = None
    if plan.labels is not None:
        extra = logits if not plan.teachers else logits.clone()
        losses = _cross_entropy_(extra, plan.labels, rows)
        total += (losses.double() * plan.labels.weight[rows].double()).sum()
    if not plan.teachers:
        return total
    width = min(logits.shape[1], *(t.head.size for t in plan.teachers))
    heat, scale = plan.heat[rows], plan.scale[rows]
    target = _target(plan.teachers, rows, heat, width)
    losses = pull_(logits[:, :width], target, plan.settings, heat, scale)
    total += (losses.double() * scale.double()).sum()
    logits[:, width:] = 0
    if extra is not None:
        logits += extra
    return total


def _target(
    teachers: Sequence[HeadInput], rows: Tensor, heat: Tensor, width: int
) -> Tensor:
    """(n, V) scaled logits of one teacher, or log of several teachers' mean."""
    mean: Tensor | None = None
    for teacher in teachers:
        head = teacher.head
        bias = None if head.bias is None else head.bias[:width]
        narrow = LinearHead(head.weight[:width], bias)
        one = logits_of(teacher.hidden[rows], narrow, heat.dtype)
        one.div_(heat[:, None])
        if teacher.log_share is None:
            return one
        one = torch.log_softmax(one, -1, out=one)
        one += teacher.log_share[rows].clamp_min(-1e30)[:, None]
        mean = one if mean is None else torch.logaddexp(mean, one, out=mean)
    assert mean is not None
    return mean


def _cross_entropy_(logits: Tensor, labels: Labels, rows: Tensor) -> Tensor:
    """(n,) losses; logits become the gradient of sum(weight x loss) to them.

    Source:
        Szegedy et al. 2016 (arXiv 1512.00567), sec. 7: with smoothing e the target is
        (1 - e) on the label plus e / V on every token.
    """
    losses = [logits.new_zeros(0)]
    smooth, width = labels.smoothing, logits.shape[1]
    for some in cached_rows(logits):
        s = logits[some]
        ids = labels.ids[rows[some], None]
        torch.log_softmax(s, -1, out=s)
        named = s.gather(1, ids)[:, 0]
        loss = (smooth - 1) * named
        if smooth:
            loss -= smooth * s.mean(-1)
        losses.append(loss)
        s.exp_().sub_(smooth / width)
        s.scatter_add_(1, ids, s.new_full(ids.shape, smooth - 1))
        s.mul_(labels.weight[rows[some], None].to(s))
    return torch.cat(losses)


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        block: int,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.block, ctx.dtype = block, dtype
        ctx.save_for_backward(hidden, weight, bias, ids)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        out = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        head = LinearHead(weight.to(dtype), bias)
        with _plain(hidden):
            for rows in _slices(len(hidden), block):
                logits = logits_of(hidden[rows].to(dtype), head, wide)
                for some in cached_rows(logits):
                    log_probs = torch.log_softmax(logits[some], -1)
                    out[rows][some] = log_probs.gather(1, ids[rows][some, None])[:, 0]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids = ctx.saved_tensors
        found = _Gradients.zeros(ctx.needs_input_grad[:3], hidden, weight, bias)
        labels = Labels(ids, -grads[0])
        every = torch.arange(len(hidden), device=hidden.device)
        low = weight.to(ctx.dtype)
        with _plain(hidden):
            for rows in _slices(len(hidden), ctx.block):
                block = hidden[rows].to(ctx.dtype)
                logits = logits_of(block, LinearHead(low, bias), grads[0].dtype)
                _cross_entropy_(logits, labels, every[rows])
                found.add(rows, logits, block, low)
        return (
            found.hidden,
            None if found.weight is None else found.weight.to(weight.dtype),
            None if found.bias is None else found.bias.to(weight.dtype),
            None,
            None,
            None,
        )


def logits_of(hidden: Tensor, head: LinearHead, dtype: torch.dtype) -> Tensor:
    """(n, C) hidden states -> (n, V) logits in ``dtype``, the caller's to write to."""
    out = (hidden @ head.weight.T).to(dtype)
    return out if head.bias is None else out.add_(head.bias.to(dtype))


def product_dtype(hidden: Tensor, head: LinearHead) -> torch.dtype:
    """The dtype in which a head is multiplied: its own, or an autocast's bfloat16."""
    device = hidden.device.type
    dtype = head.weight.dtype
    if torch.is_autocast_enabled(device) and dtype == torch.float32:
        dtype = torch.get_autocast_dtype(device)
    return torch.float32 if dtype == torch.float16 else dtype


def _in_dtype(teacher: HeadInput, dtype: torch.dtype) -> HeadInput:
    """A teacher whose products are in ``dtype``, or in its own if that is narrower."""
    own = teacher.head.weight.dtype
    narrow = own if own.itemsize < dtype.itemsize else dtype
    head = LinearHead(teacher.head.weight.detach().to(narrow), teacher.head.bias)
    return replace(teacher, hidden=teacher.hidden.detach().to(narrow), head=head)


def _plain(hidden: Tensor) -> torch.autocast:
    """Dtypes are chosen here, not by an autocast around."""
    return torch.autocast(hidden.device.type, enabled=False)


def _blocks(used: Tensor, block: int) -> Iterator[Tensor]:
    kept = used.nonzero()[:, 0]
    for start in range(0, len(kept), block):
        yield kept[start : start + block]


def _slices(count: int, block: int) -> Iterator[slice]:
    for start in range(0, count, block):
        yield slice(start, start + block)


def _scaled_(x: Tensor | None, by: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Times a scalar, in place: this is what a training step hands its weights."""
    if x is None:
        return None
    return x.mul_(by.to(x.dtype)).to(dtype)


def _check(
    hidden: Tensor,
    head: LinearHead,
    teachers: Sequence[HeadInput],
    labels: Labels | None,
    block: int,
) -> None:
    sides = [("student", hidden, head)]
    sides += [(f"teachers[{m}]", t.hidden, t.head) for m, t in enumerate(teachers)]
    for name, states, one in sides:
        if (
            states.dim() != 2
            or one.weight.dim() != 2
            or (states.shape[1] != one.weight.shape[1])
        ):
            raise ValueError(
                f"{name}: hidden {tuple(states.shape)} does not fit a head of "
                f"{tuple(one.weight.shape)}; give (N, C) and (V, C)"
            )
        if len(states) != len(hidden):
            raise ValueError(
                f"{name} has {len(states)} rows, the student {len(hidden)}; give every "
                "teacher's hidden states at the student's rows"
            )
    if len(teachers) > 1 and any(t.log_share is None for t in teachers):
        raise ValueError(
            f"{len(teachers)} teachers without shares; give each a log_share (N,)"
        )
    if block < 1:
        raise ValueError(f"block must be >= 1, got {block}")
    if labels is None:
        return
    rows = len(hidden)
    if len(labels.ids) != rows or len(labels.weight) != rows:
        raise ValueError(
            f"labels hold {len(labels.ids)} ids and {len(labels.weight)} weights for "
            f"{len(hidden)} rows; give one each"
        )
    if not 0 <= labels.smoothing < 1:
        raise ValueError(f"label smoothing must be in [0, 1), got {labels.smoothing}")
    low, high = (int(labels.ids.min()), int(labels.ids.max())) if rows else (0, 0)
    if low < 0 or high >= head.size:
        raise ValueError(
            f"labels reach from {low} to {high}, but the head has {head.size} rows; "
            "give ids of the student's vocabulary"
        )
