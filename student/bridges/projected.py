"""Compare a linear map of the student's features with a target, without mapping them.

The distance and the cosine of ``p = z W + b`` and ``q`` need three numbers a token, and
none of them needs ``p``, which is as wide as the teacher:

    p · p = z' W' W'ᵀ z'ᵀ    W' = W with b as one more row, z' = (z, 1)
    p · q = z' · (q W'ᵀ)
    q · q                    fixed

Forward and backward take one product each with the wide target, in place of three
products and several passes over tensors as wide as it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from align.calibration import METHODS, CalibrationStats
from align.products.autocast import without_autocast
from student.bridges.features import Features
from student.bridges.standardize import Standardizer
from student.objective import EPS, Side


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProjectedSide:
    """The student's keys, or its values, beside those of one teacher."""

    z: Tensor
    """(L, B, T_s, C_s) float, the student's standardised features."""
    whole: Tensor
    """(L, C_s + 1, C): W', see :attr:`LayerwiseLinear.whole`."""
    target: Features
    """Of the teacher, detached."""
    products: Products
    """0 on tokens that the teacher does not feed."""


def project(
    z: Tensor, projectors: Sequence[LayerwiseLinear], targets: Sequence[Features]
) -> list[ProjectedSide]:
    """Compare the student's keys, or its values, with those of every teacher.

    Args:
        z: the student's standardised features, (L, B, T_s, C_s) float.
        projectors: M maps to the teachers' widths.
        targets: M.
    """
    ones = nn.functional.pad(z.float(), (0, 1), value=1.0)
    maps = [projector.whole for projector in projectors]
    every = _Products.apply(ones, targets, *maps)
    return [
        ProjectedSide(
            z=z,
            whole=whole,
            target=target,
            products=Products(ours, cross, fixed, whole.shape[2]),
        )
        for (ours, cross, fixed), whole, target in zip(
            every, maps, targets, strict=True
        )
    ]


class _Products(torch.autograd.Function):
    """p · p, p · q and q · q of each teacher, (3, L, B, T_s), from z' and the W'.

    Layer by layer, so that what is as wide as a teacher stays in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, targets: Sequence[Features], *maps: Tensor
    ) -> tuple[Tensor, ...]:
        dtype = _dtype(z.device.type)
        every, kept = [], [z, *maps]
        with without_autocast(z):
            for target, whole in zip(targets, maps, strict=True):
                products = z.new_empty(3, len(z), len(target.tokens))
                for layer, (x, weight) in enumerate(
                    zip(target.layers, whole, strict=True)
                ):
                    here = z[layer].flatten(0, 1).index_select(0, target.tokens)
                    wide = x.to(dtype)
                    crossed = (wide @ weight.T.to(dtype)).float()
                    turned = here @ (weight @ weight.T)
                    products[0, layer] = torch.linalg.vecdot(here, turned)
                    products[1, layer] = torch.linalg.vecdot(here, crossed)
                    products[2, layer] = torch.linalg.vector_norm(x, dim=-1).square()
                    kept += [wide, crossed]
                every.append(target.spread(products))
        ctx.save_for_backward(*kept)
        ctx.targets = targets
        return tuple(every)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, *kept = ctx.saved_tensors
        maps, rest = kept[: len(grads)], iter(kept[len(grads) :])
        for_z, for_maps = torch.zeros_like(z), [torch.empty_like(w) for w in maps]
        for m, (target, grad) in enumerate(zip(ctx.targets, grads, strict=True)):
            ours, cross, _ = grad.flatten(2)[..., target.tokens, None]
            for layer, weight in enumerate(maps[m]):
                wide, crossed = next(rest), next(rest)
                here = z[layer].flatten(0, 1).index_select(0, target.tokens)
                scaled = here * (2 * ours[layer])
                direct = (here * cross[layer]).T.to(wide.dtype) @ wide
                for_maps[m][layer] = direct.float().addmm_(scaled.T @ here, weight)
                turned = scaled @ (weight @ weight.T)
                turned.addcmul_(crossed, cross[layer])
                for_z[layer].flatten(0, 1).index_add_(0, target.tokens, turned)
        return for_z, None, *for_maps


def _dtype(device: str) -> torch.dtype:
    """Of the wide products; sums that cancel are always float32."""
    on = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else torch.float32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Projected:
    """A comparison in the teacher's own space; see :class:`Compared`.

    It holds what the student and the teacher have, and their inner products. What is as
    wide as the teacher is worked out anew for whoever reads it.
    """

    name: str
    """The teacher's."""
    k: ProjectedSide
    v: ProjectedSide
    weight: Tensor
    """See :attr:`Comparison.weight`."""

    @property
    def pred_k(self) -> Tensor:
        """(L, B, T, C) float, with the student's and the projector's gradient."""
        return mapped(self.k.whole, self.k.z)

    @property
    def pred_v(self) -> Tensor:
        """(L, B, T, C') float."""
        return mapped(self.v.whole, self.v.z)

    @property
    def target_k(self) -> Tensor:
        """(L, B, T, C) float, detached; 0 where nothing is aligned."""
        return self.k.target.aligned()

    @property
    def target_v(self) -> Tensor:
        """(L, B, T, C') float, detached."""
        return self.v.target.aligned()

    def distance(self, side: Side) -> Tensor:
        """See :meth:`Comparison.distance`; 0 where nothing is aligned."""
        return self._side(side).products.distance()

    def cosine(self, side: Side) -> Tensor:
        """See :meth:`Comparison.cosine`; 0 where nothing is aligned."""
        return self._side(side).products.cosine()

    def _side(self, side: Side) -> ProjectedSide:
        return self.k if side == "k" else self.v


class LayerwiseLinear(nn.Module):
    """One linear map per layer: (L, B, T, C) -> (L, B, T, C')."""

    def __init__(self, layers: int, width_in: int, width_out: int) -> None:
        """Start at zero; :meth:`fit` gives the first useful weights."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers, width_in, width_out))
        self.bias = nn.Parameter(torch.zeros(layers, width_out))

    def fit(
        self, stats: CalibrationStats, student: Standardizer, teacher: Standardizer
    ) -> None:
        """Take the ridge solution, rewritten for standardised input and output.

        Args:
            stats: x: the student's raw features, y: the teacher's.
            student: the student's standardizer, already fitted.
            teacher: the teacher's.
        """
        weight, bias = METHODS["ridge"](stats)
        weight, bias = weight.to(student.mean), bias.to(student.mean)
        shift = torch.einsum("lc,lcd->ld", student.mean, weight) + bias - teacher.mean
        with torch.no_grad():
            self.weight.copy_(student.std[:, :, None] * weight / teacher.std[:, None])
            self.bias.copy_(shift / teacher.std)

    @property
    def whole(self) -> Tensor:
        """(L, C + 1, C'): W', the weight with the bias as one more row."""
        return torch.cat((self.weight, self.bias[:, None]), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each layer's map."""
        return mapped(self.whole, x)


def mapped(whole: Tensor, x: Tensor) -> Tensor:
    """(L, C + 1, C'), (L, B, T, C) -> (L, B, T, C'): each layer's map, bias last."""
    layers, batch, tokens, width = x.shape
    out = torch.baddbmm(
        whole[:, -1:].to(x.dtype),
        x.reshape(layers, batch * tokens, width),
        whole[:, :-1].to(x.dtype),
    )
    return out.view(layers, batch, tokens, -1)
