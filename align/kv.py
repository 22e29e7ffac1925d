"""The one shape in which keys and values travel between stages.

Every model's keys and values take this form once, at capture. Later stages may
change L, T, H or D but never the order of axes. Keys are always *content keys*,
before rotary embedding: position is the business of whoever captures or injects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class KV:
    """Keys and values of one model on one batch."""

    k: Tensor
    """(L, B, H, T, D_k) float, content keys."""
    v: Tensor
    """(L, B, H, T, D_v) float, dtype and device of ``k``."""
    mask: Tensor
    """(B, T) bool, True on real tokens."""

    def __post_init__(self) -> None:
        """Check that the three tensors describe one batch.

        Raises:
            ValueError: a tensor has the wrong number of axes or another size.
        """
        for name in ("k", "v"):
            shape = tuple(getattr(self, name).shape)
            if len(shape) != 5:
                raise ValueError(f"KV.{name} has shape {shape}; give (L, B, H, T, D)")
        if self.k.shape[:4] != self.v.shape[:4]:
            raise ValueError(
                f"KV.k {tuple(self.k.shape)} and KV.v {tuple(self.v.shape)} differ "
                "before the head size; both are (L, B, H, T, D)"
            )
        batch, tokens = self.k.shape[1], self.k.shape[3]
        if tuple(self.mask.shape) != (batch, tokens) or self.mask.dtype != torch.bool:
            raise ValueError(
                f"KV.mask is {self.mask.dtype} {tuple(self.mask.shape)}; "
                f"give bool ({batch}, {tokens}), True on real tokens"
            )

    @property
    def num_layers(self) -> int:
        """L."""
        return self.k.shape[0]

    @property
    def num_heads(self) -> int:
        """H, the key-value heads, not repeated for grouped queries."""
        return self.k.shape[2]

    @property
    def num_tokens(self) -> int:
        """T, padding included."""
        return self.k.shape[3]

    def flat(self) -> tuple[Tensor, Tensor]:
        """Join the heads of each token: (L, B, T, H * D_k), (L, B, T, H * D_v)."""
        return _join_heads(self.k), _join_heads(self.v)

    @staticmethod
    def from_flat(k: Tensor, v: Tensor, mask: Tensor, heads: int) -> KV:
        """Undo :meth:`flat`.

        Args:
            k: (L, B, T, heads * D_k).
            v: (L, B, T, heads * D_v).
            mask: (B, T) bool.
            heads: key-value heads; must divide both widths.

        Raises:
            ValueError: the heads do not divide a width.
        """
        return KV(_split_heads("k", k, heads), _split_heads("v", v, heads), mask)

    def select_layers(self, layers: Sequence[int]) -> KV:
        """Keep these layers, in this order."""
        index = torch.as_tensor(list(layers), dtype=torch.int64, device=self.k.device)
        return replace(self, k=self.k[index], v=self.v[index])

    def detach(self) -> KV:
        """Cut the gradient."""
        return replace(self, k=self.k.detach(), v=self.v.detach())

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> KV:
        """Move keys, values and mask; the mask stays bool."""
        return KV(
            self.k.to(device=device, dtype=dtype),
            self.v.to(device=device, dtype=dtype),
            self.mask.to(device=device),
        )


def _join_heads(x: Tensor) -> Tensor:
    layers, batch, heads, tokens, size = x.shape
    return x.transpose(2, 3).reshape(layers, batch, tokens, heads * size)


def _split_heads(name: str, x: Tensor, heads: int) -> Tensor:
    layers, batch, tokens, width = x.shape
    if width % heads:
        raise ValueError(
            f"{name} has width {width}, which {heads} heads do not divide; "
            f"give a divisor of {width}"
        )
    return x.reshape(layers, batch, tokens, heads, width // heads).transpose(2, 3)
