"""A model's next-token output, kept as what its last layer hands to its head.

Logits over a vocabulary of 150,000 are the largest tensors of a training step; the
hidden states and the head they come from are a hundred times smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from align.tokens import TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """The last matrix of a language model: logits = hidden @ weight.T + bias."""

    weight: Tensor
    """(V, C) float, the model's own parameter."""
    bias: Tensor | None = None
    """(V,) float, or None."""

    @property
    def size(self) -> int:
        """V, rows that were added to round it up included."""
        return self.weight.shape[0]

    def first(self, size: int) -> LinearHead:
        """The first rows, where another head of the vocabulary is rounded up less."""
        bias = None if self.bias is None else self.bias[:size]
        return LinearHead(self.weight[:size], bias)


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """What one model says about the next token, after every token of a batch."""

    tokens: TokenBatch
    """The model's own tokens, (B, T)."""
    hidden: Tensor
    """(B, T, C) float, what the head is given: position t predicts token t + 1."""
    head: LinearHead
    """The head; a teacher's stands still."""
    vocabulary: str
    """A digest of the tokens and their ids: equal digests mean that token i is the
    same string, whatever the head's size."""
