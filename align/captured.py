"""What a model's forward pass gives away, and what may be put into it.

These types travel between whoever runs a model and whoever learns from it, so they
lie beneath both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from align.kv import KV


@dataclass(frozen=True, slots=True, eq=False)
class Injection:
    """Keys and values that some layers read in place of their own."""

    kv: KV
    """Content keys and values in the reader's own heads and sizes, one layer for
    each of ``layers``."""
    layers: Sequence[int]
    """The reader's layers, in the order of ``kv``."""
    mask: Tensor
    """(B, T) bool: tokens at which the injected KV are read."""
    gate: Tensor
    """(len(layers),) float in [0, 1]: 0 keeps the reader's own KV, 1 replaces them."""


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """One forward pass, seen from inside."""

    kv: KV
    """Content keys and values of the layers asked for."""
    logits: Tensor | None = None
    """(B, T, V) float, next-token logits; None unless asked for."""
    hidden: Tensor | None = None
    """(B, T, C) float, last hidden state; None unless asked for."""
    attention: Tensor | None = None
    """(L, B, R, T) float32, attention probabilities of the sampled query rows,
    averaged over heads; None unless asked for."""


class Capture(Protocol):
    """A model that can be run and seen from inside."""

    @property
    def num_layers(self) -> int:
        """Layers of keys and values."""

    @property
    def num_kv_heads(self) -> int:
        """Key-value heads, not repeated for grouped queries."""

    @property
    def k_dim(self) -> int:
        """Head size of keys."""

    @property
    def v_dim(self) -> int:
        """Head size of values."""

    @property
    def hidden_size(self) -> int:
        """Width of the hidden state."""

    def __call__(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        layers: Sequence[int] | None = None,
        logits: bool = False,
        hidden: bool = False,
        inject: Injection | None = None,
        attention_rows: Tensor | None = None,
    ) -> Captured:
        """Run the model on (B, T) ids under a (B, T) bool mask.

        ``layers`` are those whose KV are kept (None: all); ``attention_rows`` is
        (B, R) int64, the query positions whose attention is kept.
        """
