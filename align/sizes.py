"""The sizes of a model's keys and values, all that bridges, maps and plans read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How large one model's keys, values and hidden states are."""

    layers: int
    """L, attention layers that have keys and values of their own."""
    heads: int
    """H, not repeated for grouped queries."""
    k_dim: int
    """Head size of keys."""
    v_dim: int
    """Head size of values; latent attention's differs from the keys'."""
    hidden_size: int
    """C, width of the last hidden state; 0 where none can be had, as from a store."""
    query_heads: int = 0
    """Heads of an attention layer, which share keys and values where they are more than
    ``heads``; 0 where nobody knows, as from a store."""
    parameters: int = 0
    """Of the whole model; 0 where nobody knows, as from a store."""

    embedding_size: int = 0
    """Width of the input embeddings; 0 where none can be had, as from a store."""

    @property
    def k_width(self) -> int:
        """H * D_k of one layer's keys of a token."""
        return self.heads * self.k_dim

    @property
    def v_width(self) -> int:
        """H * D_v of one layer's values of a token."""
        return self.heads * self.v_dim

    @property
    def width(self) -> int:
        """Numbers of one layer's key and value of a token."""
        return self.k_width + self.v_width


class Sized:
    """Each size of a model under a name of its own, for what has ``sizes``."""

    if TYPE_CHECKING:

        @property
        def sizes(self) -> Sizes:
            """All of these."""

    @property
    def num_layers(self) -> int:
        """L, the attention layers of the captured stack that have their own KV."""
        return self.sizes.layers

    @property
    def num_kv_heads(self) -> int:
        """H, not repeated for grouped queries."""
        return self.sizes.heads

    @property
    def query_heads(self) -> int:
        """Heads that attend, each group of which shares keys and values."""
        return self.sizes.query_heads

    @property
    def k_dim(self) -> int:
        """Head size of the keys."""
        return self.sizes.k_dim

    @property
    def v_dim(self) -> int:
        """Head size of the values; latent attention's differs from the keys'."""
        return self.sizes.v_dim

    @property
    def hidden_size(self) -> int:
        """C, width of the last hidden state."""
        return self.sizes.hidden_size

    @property
    def embedding_size(self) -> int:
        """Width of the input embeddings."""
        return self.sizes.embedding_size
