"""Put the features of a site that come as they are on one scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from student.bridges.standardize import Standardizer

Scale = Literal["channel", "layer"]
"""Whether each channel, less its mean, is divided by its own spread, or all of a layer
by the root of their mean variance, which no rotation of a layer changes."""


class Scales(nn.ModuleList):
    """For each teacher, what standardises the student's features and its own."""

    def __init__(self, student: int, teachers: Mapping[str, int], layers: int) -> None:
        """Begin with nothing changed.

        Args:
            student: the student's width.
            teachers: theirs, by name.
            layers: that may be compared.
        """
        super().__init__(
            nn.ModuleList(Standardizer(layers, width) for width in (student, theirs))
            for theirs in teachers.values()
        )
        self._teachers = tuple(teachers)

    @torch.no_grad()
    def fit(self, scale: Scale, pairs: Iterable[tuple[str, Tensor, Tensor]]) -> None:
        """Take mean and spread of a sample.

        Args:
            scale: by which features are divided.
            pairs: a teacher's name, the student's features (L, N, C_s) and the
                teacher's (L, N, C_t), as they come.
        """
        spreads: dict[str, tuple[Spread, Spread]] = {}
        for name, *both in pairs:
            sides = spreads.setdefault(name, (Spread(), Spread()))
            for spread, x in zip(sides, both, strict=True):
                spread.update(x)
        for name, sides in spreads.items():
            for spread, standard in zip(sides, self._of(name), strict=True):
                if spread.n:
                    standard.fit(spread.mean, spread.std)
                if scale == "layer":
                    standard.one_scale()

    def forward(self, teacher: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(L, B, T, C_s) of the student and (L, B, T, C_t), standardised."""
        student, theirs = self._of(teacher)
        return student(x), theirs(y)

    def _of(self, teacher: str) -> Any:
        return self[self._teachers.index(teacher)]


class Spread:
    """Mean and standard deviation of channels, in one pass over a sample."""

    def __init__(self) -> None:
        """Start empty."""
        self.n = 0
        self._sum: Any = 0.0
        self._squares: Any = 0.0
        self._shift: Any = None

    def update(self, x: Tensor) -> None:
        """Add features (L, N, C)."""
        if not x.shape[1]:
            return
        x = x.double()
        if self._shift is None:
            self._shift = x.mean(1, keepdim=True)
        x = x - self._shift  # so that large offsets lose nothing
        self.n += x.shape[1]
        self._sum, self._squares = (
            self._sum + x.sum(1),
            self._squares + x.square().sum(1),
        )

    @property
    def mean(self) -> Tensor:
        """(L, C) float64."""
        return torch.as_tensor(self._shift[:, 0] + self._sum / self.n)

    @property
    def std(self) -> Tensor:
        """(L, C) float64 > 0; of constant channels that of the layer, or 1."""
        variance = self._squares / self.n - (self._sum / self.n).square()
        typical = variance.mean(1, keepdim=True)
        variance = torch.where(variance > 1e-6 * typical, variance, typical)
        return torch.where(variance > 1e-12, variance, 1.0).sqrt()
