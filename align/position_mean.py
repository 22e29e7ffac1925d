"""Take off keys and values what they are at a position whatever the text says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PRIOR = 8.0
"""Tokens' worth of belief that a position is like any other: positions seen rarely
are corrected little."""


class PositionMean(nn.Module):
    """The mean of features at each position, found on a sample and then subtracted.

    A model with a table of learned positions adds them to its embeddings, so that its
    keys say where a token stands beside what it is: up to 45 % of the variance of a
    small GPT-2's keys. There is no rotation to undo; this is its counterpart. Until
    fitted it changes nothing.
    """

    table: Tensor
    """(L, P, C) float32, each position's mean less the mean of all."""

    def __init__(self, layers: int, width: int) -> None:
        """Start as the identity for (layers, B, T, width) features."""
        super().__init__()
        self.register_buffer("table", torch.zeros(layers, 0, width))
        self._sums = torch.zeros(layers, 0, width, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.float64)

    @torch.no_grad()
    def update(self, x: Tensor, mask: Tensor) -> None:
        """Add a batch to the sample.

        Args:
            x: (L, B, T, C) float.
            mask: (B, T) bool, False on padding.
        """
        x, mask = x.to(self._sums), mask.to(self._sums.device)
        place = positions(mask)[mask]  # (N,)
        more = int(place.max()) + 1 - len(self._counts) if len(place) else 0
        if more > 0:
            self._sums = nn.functional.pad(self._sums, (0, 0, 0, more))
            self._counts = nn.functional.pad(self._counts, (0, more))
        self._sums.index_add_(1, place, x[:, mask])
        self._counts.index_add_(0, place, torch.ones_like(place, dtype=torch.float64))

    def fit(self) -> None:
        """Take the sample's means; a sample of no token leaves the identity."""
        total = self._counts.sum()
        if total == 0:
            return
        mean = self._sums.sum(1, keepdim=True) / total
        shrunk = self._sums + PRIOR * mean
        shrunk = shrunk / (self._counts + PRIOR)[:, None]
        self.table = (shrunk - mean).to(self.table)

    def offset(
        self, layer: int, mask: Tensor, weight: Tensor | None = None
    ) -> Tensor | None:
        """What one layer holds of its positions alone.

        Args:
            layer: in [0, L).
            mask: (B, T) bool, False on padding, on either side.
            weight: (C, C') that the features are mapped by; maps the offset too.

        Returns:
            (B, T, C or C'), 0 on padding and beyond the sample's longest text; None
            before :meth:`fit`.
        """
        if not self.fitted:
            return None
        table = self.rows(layer)
        return (table if weight is None else table @ weight)[self.places(mask)]

    @property
    def fitted(self) -> bool:
        """Whether there is something to take off."""
        return self.table.shape[1] > 0

    def rows(self, layer: int) -> Tensor:
        """(P + 1, C) float32: one layer's positions, and a row of zeros for others."""
        return nn.functional.pad(self.table[layer], (0, 0, 0, 1))

    def places(self, mask: Tensor) -> Tensor:
        """(B, T) int64: the row of :meth:`rows` that holds of each token."""
        last_row = self.table.shape[1]
        place = positions(mask)
        return place.masked_fill((place >= last_row) | ~mask, last_row)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Subtract what belongs to the positions.

        Args:
            x: (L, B, T, C) float.
            mask: (B, T) bool, False on padding, on either side.

        Returns:
            As ``x``; positions beyond the sample's longest text keep theirs.
        """
        layer_offsets = [self.offset(layer, mask) for layer in range(len(self.table))]
        offsets = [offset for offset in layer_offsets if offset is not None]
        return (x.float() - torch.stack(offsets)).to(x.dtype) if offsets else x


def positions(mask: Tensor) -> Tensor:
    """(B, T) bool -> (B, T) int64: each token's place in its text, padding as 0."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
