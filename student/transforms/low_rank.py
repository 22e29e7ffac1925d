"""Weights of low rank while the student trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from align.support.field_types import AtLeastOne, Share
from align.support.matrices import lies_on_its_side, trained_weight
from student.transforms.base import Targets, WeightTransform


class LowRank(WeightTransform):
    """Each matrix within the leading directions of its outputs.

    Source:
        ``U U^T W`` with the r left singular vectors of ``W`` that hold a share of its
        energy: there the truncated SVD, which is the nearest matrix of that rank
        (Eckart and Young 1936). Departure: between two looks the directions stand still
        while the weights learn, as an SVD a step would cost more than the step.
    """

    def __init__(
        self, *, share: Share = 0.9, every: AtLeastOne = 100, targets: Targets = "auto"
    ) -> None:
        """Take how much of a matrix stays.

        Args:
            share: of the sum of squared singular values, from which the rank follows as
                the phase begins.
            every: optimiser steps between two looks for the directions.
            targets: layers by the ends of their names; ``auto``: every linear layer but
                the head.
        """
        super().__init__(targets)
        self.share, self.every = share, every
        self._looked = 0

    def made_for(self, weight: Tensor, name: str) -> nn.Module:
        """The directions of one layer."""
        return _Directions(weight, self.share)

    @torch.no_grad()
    def at(self, strength: float, step: int) -> None:
        """Look anew where it is time."""
        super().at(strength, step)
        if step % self.every or step == self._looked:
            return
        self._looked = step
        for layer, blended in self.changed_layers:
            weight = trained_weight(layer)
            upright = weight.T if lies_on_its_side(layer) else weight
            blended.made.look(upright)


class _Directions(nn.Module):
    """The leading left singular vectors of a matrix."""

    basis: Tensor

    def __init__(self, weight: Tensor, share: float) -> None:
        super().__init__()
        left, values, _ = torch.linalg.svd(weight.float(), full_matrices=False)
        # A plan has shapes alone, and counts the most that it can be.
        rank = len(values) if isinstance(weight, FakeTensor) else rank_of(values, share)
        self.register_buffer("basis", left[:, :rank].clone())
        """(out, r) float32, orthonormal columns."""

    def look(self, weight: Tensor) -> None:
        """Find as many directions of a matrix as there are."""
        left, _, _ = torch.linalg.svd(weight.float(), full_matrices=False)
        self.basis.copy_(left[:, : self.basis.shape[1]])

    def forward(self, weight: Tensor) -> Tensor:
        basis = self.basis.to(weight.dtype)
        return basis @ (basis.T @ weight)


def rank_of(values: Tensor, share: float) -> int:
    """The least rank that keeps a share of the energy, at least 1.

    Args:
        values: (K,) singular values, falling.
        share: of the sum of their squares, in [0, 1].
    """
    energy = values.double().square().cumsum(0)
    enough = energy >= share * energy[-1] * (1 - 1e-12)
    return int(enough.nonzero()[0]) + 1
