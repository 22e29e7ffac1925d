"""A teacher's features on the student tokens that it feeds, without the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from align.layer_map import Feed, LayerMap
from align.time_align import Alignment


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What a student is compared with: padding and uncovered tokens left out."""

    layers: tuple[Tensor, ...]
    """For each student layer (P, C) float32, detached. Apart, so that each is made
    and read while it is in the cache."""
    tokens: Tensor
    """(P,) int64, ascending, into B * T_s: the student tokens that these are for."""
    shape: tuple[int, int]
    """(B, T_s)."""

    def aligned(self) -> Tensor:
        """(L, B, T_s, C) float32, 0 on tokens without text of the teacher's."""
        return self.spread(torch.stack(self.layers), dim=1)

    def spread(self, x: Tensor, dim: int = -1) -> Tensor:
        """Give every token its place, (B, T_s) where ``dim`` was P; 0 on the others."""
        dim %= x.dim()
        shape = list(x.shape)
        shape[dim] = math.prod(self.shape)
        out = x.new_zeros(shape).index_copy_(dim, self.tokens, x)
        return out.unflatten(dim, self.shape)


@torch.no_grad()
def mixed(x: Tensor, alignment: Alignment, layer_map: LayerMap) -> Features:
    """A teacher's layers on the student's layers and the tokens that they feed.

    Args:
        x: (L_needed, B, T_t, C) float, the layers that the map needs.
        alignment: teacher -> student.
        layer_map: from teacher to student.
    """
    carry, x = LayerMixer(alignment), x.float().flatten(1, 2)
    layers = tuple(carry(x, feeds) for feeds in layer_map.remap())
    return Features(layers, carry.tokens, alignment.shape[:2])


class LayerMixer:
    """Mixes a teacher's layers and aligns its tokens in one pass over memory."""

    def __init__(self, pairs: Alignment) -> None:
        """Find the student tokens that are fed."""
        self.tokens, feeds = pairs.rows.unique_consecutive(return_counts=True)
        self._starts = feeds.cumsum(0) - feeds
        self._cols, self._weights = pairs.cols, pairs.weights

    def __call__(self, x: Tensor, feeds: Sequence[Feed]) -> Tensor:
        """One student layer.

        Args:
            x: (L_t, B * T_t, C) float32.
            feeds: the teacher layers, of these, and their weights.

        Returns:
            (P, C) float32.
        """
        size = x.shape[1]
        index = torch.stack([self._cols + layer * size for layer, _ in feeds], 1)
        weights = torch.stack([self._weights * weight for _, weight in feeds], 1)
        return self._bags(x.flatten(0, 1), index, weights)

    def rows(self, table: Tensor, place: Tensor) -> Tensor:
        """What (P, C) the rows ``place`` (B * T_t,) int64 of a table (R, C) come to."""
        return self._bags(table, place[self._cols, None], self._weights[:, None])

    def _bags(self, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        if not len(index):
            return table.new_zeros(0, table.shape[1])
        return F.embedding_bag(
            index.flatten(),
            table,
            self._starts * index.shape[1],
            mode="sum",
            per_sample_weights=weights.flatten(),
        )
