"""Weights of low rank while the student trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from align.support.field_types import AtLeastOne, Share
from align.support.matrices import lies_on_its_side, trained_weight
from student.transforms.base import Targets, WeightTransform, held_by


class LowRank(WeightTransform):
    """Each matrix within its leading directions: of its outputs, or of its inputs where
    there are fewer.

    Source:
        ``U U^T W`` with the r left singular vectors of ``W`` that hold a share of its
        energy, or ``W V V^T`` with the right ones: there the truncated SVD, which is
        the nearest matrix of that rank (Eckart and Young 1936). Of more than half of
        the directions the others are taken away, ``W - C C^T W``, which is the same up
        to rounding and costs less. Departure: between two looks the directions stand
        still while the weights learn, as an SVD a step would cost more than the step.
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

    def attach(self, model: nn.Module) -> None:
        """Change the weights of the chosen layers, in place, and how they compute."""
        super().attach(model)
        for layer, _ in self.changed_layers:
            if type(layer).__mro__[1] is nn.Linear:
                type(layer).forward = _through_directions  # a class of its own

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
    """The leading singular vectors of a matrix on its shorter side, or the others."""

    basis: Tensor

    def __init__(self, weight: Tensor, share: float) -> None:
        super().__init__()
        self._of_inputs = weight.shape[0] > weight.shape[1]
        vectors, values = self._vectors(weight)
        # A plan has shapes alone, and counts the most that it can be.
        shapes = isinstance(weight, FakeTensor)
        rank = len(values) // 2 if shapes else rank_of(values, share)
        self.others = rank if 2 * rank > len(values) else 0
        """The rank where what is held is what goes; 0 where it is what stays."""
        held = vectors[:, self.others :] if self.others else vectors[:, :rank]
        self.register_buffer("basis", held.contiguous())
        """(out or in, r or all but r) float32, orthonormal columns."""
        self._kept: tuple[Tensor, int, Tensor] | None = None
        """``basis`` as it was read, its version, and what stays by it."""

    def look(self, weight: Tensor) -> None:
        """Find as many directions of a matrix as there are."""
        vectors, _ = self._vectors(weight)
        columns = self.basis.shape[1]
        first = self.others
        self.basis.copy_(vectors[:, first : first + columns])

    @property
    def kept(self) -> Tensor:
        """(out or in, r) float32: orthonormal columns of what stays, found anew where
        ``basis`` was written to."""
        if not self.others:
            return self.basis
        basis, version, kept = self._kept or (None, 0, self.basis)
        if basis is not self.basis or version != self.basis._version:
            whole = torch.linalg.qr(self.basis, mode="complete").Q
            kept = whole[:, self.basis.shape[1] :].contiguous()
            self._kept = self.basis, self.basis._version, kept
        return kept

    def __getstate__(self) -> dict[str, Any]:
        """Without what stays: a copy counts versions of its tensors from 0 again."""
        return self.__dict__ | {"_kept": None}

    def _vectors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(n, n) those of the shorter side as columns, and (n,) singular values."""
        upright = weight.float().T if self._of_inputs else weight.float()
        left, values, _ = torch.linalg.svd(upright, full_matrices=False)
        return left, values

    def forward(self, weight: Tensor) -> Tensor:
        inside: Tensor = _Projected.apply(weight, self.basis, bool(self.others))
        return inside


def _through_directions(layer: Any, x: Tensor) -> Tensor:
    """What a linear layer of low rank computes, by way of its directions.

    In training at strength 1, where nothing else changes the weight, ``x`` is taken
    into the directions first if that leaves fewer products in both passes; otherwise by
    the weight, as it is exported.
    """
    change, *others = held_by(layer)
    weight, bias = layer.parametrizations["weight"].original, layer.bias
    plain = weight.dtype == x.dtype and not torch.is_autocast_enabled(x.device.type)
    if others or not layer.training or change.value != 1 or not plain:
        return nn.functional.linear(x, layer.weight, bias)
    kept = change.made.kept
    rows, rank = x.numel() // x.shape[-1], kept.shape[1]
    if not _is_shorter(rows, weight.shape, rank):
        return nn.functional.linear(x, layer.weight, bias)
    kept = kept.to(x.dtype)
    if weight.shape[0] > weight.shape[1]:
        return nn.functional.linear(x @ kept, weight @ kept, bias)
    return nn.functional.linear(nn.functional.linear(x, kept.T @ weight), kept, bias)


def _is_shorter(rows: int, shape: tuple[int, int], rank: int) -> bool:
    """Whether the way by the directions has fewer products than the projected weight,
    forward and backward."""
    short, long = sorted(shape)
    size = short * long
    by_directions = rank * (rows * (3 * long + 2 * short) + 2 * size)
    projected = 3 * rows * size + 4 * size * min(rank, short - rank)
    return by_directions < projected


class _Projected(torch.autograd.Function):
    """See :func:`projected`; the gradient of a projection is projected likewise."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, basis: Tensor, others: bool) -> Tensor:
        ctx.save_for_backward(basis)
        ctx.others = others
        return projected(matrix, basis, others)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        (basis,) = ctx.saved_tensors
        return projected(slopes[0], basis, ctx.others), None, None


def projected(matrix: Tensor, basis: Tensor, others: bool) -> Tensor:
    """What of a matrix lies within directions of its shorter side, or outside of them.

    Args:
        matrix: (out, in); contiguous stays contiguous, which autograd needs not copy.
        basis: (in, r) where there are fewer inputs than outputs, or (out, r);
            orthonormal columns.
        others: take what lies outside.
    """
    basis = basis.to(matrix.dtype)
    if matrix.shape[0] > matrix.shape[1]:
        left, right = matrix @ basis, basis.T
    else:
        left, right = basis, basis.T @ matrix
    return torch.addmm(matrix, left, right, alpha=-1) if others else left @ right


def rank_of(values: Tensor, share: float) -> int:
    """The least rank that keeps a share of the energy, at least 1.

    Args:
        values: (K,) singular values, falling.
        share: of the sum of their squares, in [0, 1].
    """
    energy = values.double().square().cumsum(0)
    enough = energy >= share * energy[-1] * (1 - 1e-12)
    return int(enough.nonzero()[0]) + 1
