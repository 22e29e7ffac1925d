"""Compare a linear map of the student's features with a target, without mapping them.

The distance and the cosine of ``p = z W + b`` and ``q`` need three numbers a token, and
none of them needs ``p``, which is as wide as the teacher:

    p · p = z' G z'ᵀ        G = W' W'ᵀ, W' = W with b as one more row, z' = (z, 1)
    p · q = z' · (q W'ᵀ)
    q · q                   fixed

Forward and backward take one product each with the wide target, in place of three
products and several passes over tensors as wide as it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from align.calibration import METHODS, CalibrationStats
from student.objective import EPS, Comparison, Side
from student.standardize import Standardizer


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """Inner products of prediction and target, (L, B, T) float32."""

    own: Tensor
    """p · p."""
    cross: Tensor
    """p · q."""
    target: Tensor
    """q · q, without gradient."""
    width: int
    """C of p and q."""

    def distance(self) -> Tensor:
        """Mean over channels of (p - q)²."""
        return (self.own - 2 * self.cross + self.target) / self.width

    def cosine(self) -> Tensor:
        """Of p and q."""
        lengths = self.own.clamp_min(EPS**2) * self.target.clamp_min(EPS**2)
        return self.cross * lengths.rsqrt()


def products(z: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Products:
    """Inner products of ``z W + b`` and the target.

    Args:
        z: (L, B, T, C_s) float.
        weight: (L, C_s, C) float.
        bias: (L, C) float.
        target: (L, B, T, C) float, detached.
    """
    layers, batch, tokens, width = target.shape
    both = torch.cat((weight, bias[:, None]), 1)  # (L, C_s + 1, C)
    crossed = torch.bmm(target.flatten(1, 2), both.mT).float()
    with torch.autocast(target.device.type, enabled=False):  # sums that cancel
        z, both = z.flatten(1, 2).float(), both.float()
        gram = torch.bmm(both, both.mT)
        turned = torch.baddbmm(2 * gram[:, -1:, :-1], z, gram[:, :-1, :-1])
        own = torch.linalg.vecdot(z, turned) + gram[:, -1:, -1]
        cross = torch.linalg.vecdot(z, crossed[..., :-1]) + crossed[..., -1]
        wide = target.float()
        fixed = torch.linalg.vecdot(wide, wide)
    shape = (layers, batch, tokens)
    return Products(own.view(shape), cross.view(shape), fixed, width)


class Projected(Comparison):
    """A :class:`Comparison` whose predictions are made only for those who read them."""

    _features: tuple[Tensor, Tensor]
    _project: tuple[LayerwiseLinear, LayerwiseLinear]

    def __init__(
        self,
        name: str,
        features: tuple[Tensor, Tensor],
        project: tuple[LayerwiseLinear, LayerwiseLinear],
        targets: tuple[Tensor, Tensor],
        weight: Tensor,
    ) -> None:
        """Hold what to compare.

        Args:
            name: the teacher's.
            features: the student's standardised keys and values, (L, B, T, C_s).
            project: their maps to the teacher's width.
            targets: the teacher's keys and values, (L, B, T, C_t), detached.
            weight: see :class:`Comparison`.
        """
        self.__dict__.update(
            name=name, target_k=targets[0], target_v=targets[1], weight=weight
        )
        self.__dict__.update(_features=features, _project=project)

    @cached_property
    def pred_k(self) -> Tensor:  # type: ignore[override]
        """The projected keys, (L, B, T, C_t)."""
        return self._project[0](self._features[0])

    @cached_property
    def pred_v(self) -> Tensor:  # type: ignore[override]
        """The projected values, (L, B, T, C_t)."""
        return self._project[1](self._features[1])

    def distance(self, side: Side) -> Tensor:
        """See :meth:`Comparison.distance`."""
        return self._products(side).distance()

    def cosine(self, side: Side) -> Tensor:
        """See :meth:`Comparison.cosine`."""
        return self._products(side).cosine()

    def _products(self, side: Side) -> Products:
        return self._key_products if side == "k" else self._value_products

    @cached_property
    def _key_products(self) -> Products:
        project = self._project[0]
        return products(self._features[0], project.weight, project.bias, self.target_k)

    @cached_property
    def _value_products(self) -> Products:
        project = self._project[1]
        return products(self._features[1], project.weight, project.bias, self.target_v)


class LayerwiseLinear(nn.Module):
    """One linear map per layer: (L, B, T, C) -> (L, B, T, C')."""

    def __init__(self, layers: int, width_in: int, width_out: int) -> None:
        """Start at zero; :meth:`fit` gives the first useful weights."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers, width_in, width_out))
        self.bias = nn.Parameter(torch.zeros(layers, width_out))

    def fit(
        self, stats: CalibrationStats, own: Standardizer, teacher: Standardizer
    ) -> None:
        """Take the ridge solution, rewritten for standardised input and output.

        Args:
            stats: x: the student's raw features, y: the teacher's.
            own: the student's standardizer, already fitted.
            teacher: the teacher's.
        """
        weight, bias = METHODS["ridge"](stats)
        weight, bias = weight.to(own.mean), bias.to(own.mean)
        shift = torch.einsum("lc,lcd->ld", own.mean, weight) + bias - teacher.mean
        with torch.no_grad():
            self.weight.copy_(own.std[:, :, None] * weight / teacher.std[:, None])
            self.bias.copy_(shift / teacher.std)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each layer's map."""
        layers, batch, tokens, width = x.shape
        out = torch.baddbmm(
            self.bias[:, None].to(x.dtype),
            x.reshape(layers, batch * tokens, width),
            self.weight.to(x.dtype),
        )
        return out.view(layers, batch, tokens, -1)
