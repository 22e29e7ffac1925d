"""Products with a language-model head, a block of tokens at a time.

Whoever needs logits asks for a block of them, and gives their gradient back. The
buffers are made once: at a vocabulary of 150,000 fresh memory for every block costs
more time than what is done in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align.tokens.named_head import NamedHead
from align.views import Head
from student.output.divergence.rows import times_

BLOCK = 128
"""Tokens whose logits are held at once."""
LOGITS = 2**24
"""Logits of the student's own tokens that are held at once, where they are more than
those of ``BLOCK`` tokens: 64 MiB of them in float32, and less time for small heads."""
_TILE = 8192  # rows of a low-precision head's gradient worked out at once


class LogitBuffer:
    """Room for the logits of one block, filled again and again."""

    def __init__(self, rows: int, columns: int, wide: torch.dtype) -> None:
        """Say how much room; it is taken with the first block.

        Args:
            rows: most rows of a block.
            columns: V.
            wide: dtype of the logits that are handed out.
        """
        self._shape, self._wide = (rows, columns), wide
        self._logits: Tensor | None = None
        self._narrow: Tensor | None = None

    def fill(self, hidden: Tensor, head: Head) -> Tensor:
        """(n, C) hidden states -> (n, V) logits, the caller's until the next block."""
        if self._logits is None:
            self._logits = hidden.new_empty(self._shape, dtype=self._wide)
        logits = self._logits[: len(hidden)]
        if isinstance(head, NamedHead):
            return logits.copy_(head.logits(hidden))
        if hidden.dtype == self._wide:
            torch.mm(hidden, head.weight.T, out=logits)
        else:
            narrow = self.narrow(len(hidden), hidden)
            logits.copy_(torch.mm(hidden, head.weight.T, out=narrow))
        return logits if head.bias is None else logits.add_(head.bias)

    def narrow(self, rows: int, like: Tensor) -> Tensor:
        """(rows, V) room in another dtype, for products."""
        if self._narrow is None or self._narrow.dtype != like.dtype:
            self._narrow = like.new_empty(self._shape)
        return self._narrow[:rows]


@dataclass(slots=True, eq=False)
class HeadGradients:
    """Gradients to hidden states and a head, summed over blocks; None: not wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @staticmethod
    def zeros(
        wanted: Sequence[bool], hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> HeadGradients:
        """Nothing yet; a head's gradient is summed in at least float32."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        to_bias = bias is not None and wanted[2]
        return HeadGradients(
            torch.zeros_like(hidden) if wanted[0] else None,
            torch.zeros_like(weight, dtype=wide) if wanted[1] else None,
            torch.zeros_like(bias, dtype=wide)
            if bias is not None and to_bias
            else None,
        )

    def add(
        self,
        rows: slice | Tensor,
        gradient: Tensor,
        hidden: Tensor,
        weight: Tensor,
        buffer: LogitBuffer,
    ) -> None:
        """Carry a block's gradient to its logits on to what made them.

        Args:
            rows: the block's, among all.
            gradient: (n, V) to the logits.
            hidden: (n, C), in the dtype of the products.
            weight: (V, C), likewise.
            buffer: where the logits came from.
        """
        if self.bias is not None:
            self.bias += gradient.sum(0)
        if self.hidden is None and self.weight is None:
            return
        low = gradient
        if gradient.dtype != weight.dtype:
            low = buffer.narrow(len(gradient), weight).copy_(gradient)
        if self.hidden is not None:
            self.hidden[rows] = (low @ weight).to(self.hidden.dtype)
        if self.weight is None:
            return
        if self.weight.dtype == weight.dtype:
            self.weight.addmm_(low.T, hidden)
            return
        for start in range(0, len(self.weight), _TILE):  # narrow products, wide sums
            tile = slice(start, start + _TILE)
            self.weight[tile] += low[:, tile].T @ hidden

    def times_(
        self, by: Tensor, hidden: torch.dtype, weight: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """All three times a scalar, in place, in the dtypes of what they belong to."""
        pairs = (self.hidden, hidden), (self.weight, weight), (self.bias, weight)
        first, second, third = (
            None if x is None else times_(x, by).to(dtype) for x, dtype in pairs
        )
        return first, second, third


def product_dtype(hidden: Tensor, head: Head) -> torch.dtype:
    """The dtype in which a head is multiplied: its own, or an autocast's bfloat16.

    Float16 gives way to float32: a gradient divided by its tokens is too small for it.
    """
    if isinstance(head, NamedHead):  # ids are no numbers to be rounded
        return torch.float32
    device = hidden.device.type
    dtype = head.weight.dtype
    if torch.is_autocast_enabled(device) and dtype == torch.float32:
        dtype = torch.get_autocast_dtype(device)
    return torch.float32 if dtype == torch.float16 else dtype


def narrowed(hidden: Tensor, head: Head) -> Tensor:
    """Hidden states in the dtype of their head."""
    return hidden if isinstance(head, NamedHead) else hidden.to(head.weight.dtype)


def logits_of(hidden: Tensor, head: Head, dtype: torch.dtype) -> Tensor:
    """(n, C) hidden states -> (n, V) fresh logits in ``dtype``."""
    if isinstance(head, NamedHead):
        return head.logits(hidden).to(dtype)
    out = (hidden @ head.weight.T).to(dtype)
    return out if head.bias is None else out.add_(head.bias.to(dtype))


def blocks(count: int, block: int) -> Iterator[slice]:
    """Consecutive slices of up to ``block`` rows."""
    for start in range(0, count, block):
        yield slice(start, start + block)


def check_head(name: str, hidden: Tensor, head: Head) -> None:
    """See that hidden states fit a head.

    Raises:
        ValueError: names both shapes.
    """
    if hidden.dim() != 2 or hidden.shape[1] != head.width:
        raise ValueError(
            f"{name}: hidden {tuple(hidden.shape)} does not fit a head of "
            f"{(head.size, head.width)}; give (N, C) and (V, C)"
        )
