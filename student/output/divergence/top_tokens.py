"""The most probable tokens of every row, with their logits, and nothing else kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from align.errors import InputError
from align.products.autocast import without_autocast
from align.tokens.named_head import NamedHead
from align.views import Head, LinearHead
from student.output.divergence.linear import BLOCK, logits_of, product_dtype


@dataclass(frozen=True, slots=True, eq=False)
class TopTokens:
    """The k most probable tokens after every token, most probable first."""

    logits: Tensor
    """(N, k) at least float32, with the gradient; -inf beyond a row's own size."""
    ids: Tensor
    """(N, k) int64, distinct in a row."""
    log_total: Tensor
    """(N,) logsumexp of the row's logits over the whole vocabulary, detached."""
    entropy: Tensor
    """(N,) nats, of the whole distribution, detached."""

    @property
    def left_out(self) -> Tensor:
        """(N,) probability of the tokens that are not among these, detached."""
        kept = self.logits.detach().logsumexp(-1) - self.log_total
        return -torch.expm1(kept).clamp(max=0)

    def limited(self, sizes: Tensor) -> TopTokens:
        """Keep only the first tokens of each row.

        Args:
            sizes: (N,) int64 >= 1.

        Returns:
            The same with logits of -inf from each row's size on.
        """
        rank = torch.arange(self.ids.shape[1], device=sizes.device)
        beyond = rank >= sizes[:, None]
        return replace(self, logits=self.logits.masked_fill(beyond, -math.inf))

    def rows(self, rows: Tensor) -> TopTokens:
        """Some of the rows, (n,) int64 or (N,) bool."""
        return TopTokens(
            self.logits[rows], self.ids[rows], self.log_total[rows], self.entropy[rows]
        )


def top_tokens(logits: Tensor, k: int) -> TopTokens:
    """Choose the k most probable tokens of given logits.

    Args:
        logits: (N, V) float.
        k: tokens a row, >= 1; more than V are V.

    Raises:
        ValueError: a shape or k is wrong.
    """
    if logits.dim() != 2 or k < 1:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and k is {k}; give (N, V) logits "
            "and k >= 1"
        )
    wide = torch.promote_types(logits.dtype, torch.float32)
    with torch.no_grad():
        likeliest = TopTokens(*_choose(logits.detach().to(wide), k))
    return replace(likeliest, logits=logits.gather(1, likeliest.ids).to(wide))


def linear_top_tokens(
    hidden: Tensor, head: Head, k: int, block: int = BLOCK
) -> TopTokens:
    """Choose the k most probable tokens behind a head, without keeping its logits.

    Args:
        hidden: (N, C) float, last hidden states.
        head: (V, C), or of named tokens, then without gradients.
        k: tokens a row, >= 1; more than V are V.
        block: rows whose logits are held at once.

    Returns:
        The tokens, with gradients to ``hidden``, ``head.weight`` and ``head.bias``:
        only rows of the head that were chosen receive any.

    Raises:
        ValueError: a shape or k is wrong, or fewer tokens were kept.
    """
    if hidden.dim() != 2 or hidden.shape[1] != head.width or k < 1:
        raise ValueError(
            f"hidden has shape {tuple(hidden.shape)}, the head "
            f"{(head.size, head.width)} and k is {k}; give (N, C), (V, C) and k >= 1"
        )
    if isinstance(head, NamedHead):
        return _of_named(hidden, head, k, block)
    dtype = product_dtype(hidden, head)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    with torch.no_grad(), without_autocast(hidden):
        narrow = LinearHead(head.weight.detach().to(dtype), head.bias)
        parts = [
            _choose(logits_of(rows.to(dtype), narrow, wide), k)
            for rows in hidden.detach().split(block)
        ]
    likeliest = TopTokens(*(torch.cat(part) for part in zip(*parts, strict=True)))
    logits = _ChosenLogits.apply(hidden, head.weight, head.bias, likeliest, block)
    return replace(likeliest, logits=logits)


def _of_named(rows: Tensor, head: NamedHead, k: int, block: int) -> TopTokens:
    if min(k, head.size) > head.top_k:
        raise InputError(
            f"{k} likeliest tokens are asked of an output of which {head.top_k} were "
            "kept; ask for fewer, or keep more"
        )
    parts = [_choose(head.logits(some), k) for some in rows.split(block)]
    return TopTokens(*(torch.cat(part) for part in zip(*parts, strict=True)))


def support_sizes(
    entropy: Tensor, largest: int, smallest: int = 1, multiple: float = 2.0
) -> Tensor:
    """How many tokens of each row to look at, by how undecided the teacher is.

    Args:
        entropy: (N,) float, nats.
        largest: most tokens, >= smallest.
        smallest: fewest tokens, >= 1.
        multiple: tokens looked at per token that the teacher hesitates between, > 0.

    Returns:
        (N,) int64: ``multiple * exp(entropy)`` rounded up, within the limits.

    Raises:
        ValueError: a limit is out of range.

    Source:
        The exponential of the entropy as the number of equally likely choices
        (perplexity; Hill 1973).
    """
    if not 1 <= smallest <= largest or not 0 < multiple < math.inf:
        raise ValueError(
            f"smallest={smallest}, largest={largest}, multiple={multiple}: give "
            "1 <= smallest <= largest and multiple > 0"
        )
    sizes = (multiple * entropy.double().exp() - 1e-6).ceil()
    return sizes.clamp(smallest, largest).long()


def _choose(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The largest logits (n, k) and their ids, the rows' logsumexp and entropy."""
    chosen, ids = logits.topk(min(k, logits.shape[1]), -1)
    log_probs = logits.log_softmax(-1)
    total = chosen[:, 0] - log_probs.gather(1, ids[:, :1])[:, 0]
    least = torch.finfo(log_probs.dtype).min
    log_probs = log_probs.clamp_(min=least)  # where 0 x -inf would be NaN
    return chosen, ids, total, -(log_probs.exp() * log_probs).sum(-1)


class _ChosenLogits(torch.autograd.Function):
    """Logits of chosen tokens, found before; their gradient reads no other tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        likeliest: TopTokens,
        block: int,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, likeliest.ids)
        ctx.block = block
        return likeliest.logits.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids = ctx.saved_tensors
        (grad,) = grads
        d_hidden = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            d_hidden = torch.empty_like(hidden)
            for start in range(0, len(hidden), ctx.block):
                rows = slice(start, start + ctx.block)
                chosen = weight[ids[rows]].to(grad.dtype)
                d_hidden[rows] = (grad[rows, None] @ chosen)[:, 0]
        if ctx.needs_input_grad[1]:
            total = torch.zeros(weight.shape, dtype=grad.dtype, device=grad.device)
            for start in range(0, len(hidden), ctx.block):
                rows = slice(start, start + ctx.block)
                pulls = grad[rows, :, None] * hidden[rows, None].to(grad.dtype)
                total.index_add_(0, ids[rows].flatten(), pulls.flatten(0, 1))
            d_weight = total.to(weight.dtype)
        if ctx.needs_input_grad[2]:
            d_bias = torch.zeros(len(weight), dtype=grad.dtype, device=grad.device)
            d_bias = d_bias.index_add_(0, ids.flatten(), grad.flatten()).to(bias.dtype)
        return d_hidden, d_weight, d_bias, None, None


def masked_log_softmax(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Log-probabilities over the chosen tokens alone.

    Args:
        logits: (N, k) float; -inf takes no part.
        temperature: > 0, one for all rows or (N,).
    """
    row_temperature = torch.as_tensor(
        temperature, dtype=logits.dtype, device=logits.device
    )
    return F.log_softmax(logits / row_temperature.reshape(-1, 1), -1)
