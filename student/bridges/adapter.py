"""Meet in the student's dimensions: adapters, then one fused target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from align.calibration import Method
from align.kv import KV
from align.position_mean import PositionMean
from align.sizes import Sizes
from align.time_align import Alignment
from align.views import TeacherView
from fuse.fuse_kv import fuse_with_weights
from student.bridges.base import (
    Bridge,
    PairStats,
    TeacherShape,
    new_adapter,
)
from student.objective import Compared, Comparison


class AdapterBridge(Bridge):
    """Teacher -> student adapters.

    Calibrated in closed form; afterwards only the outcome trains them. In
    :meth:`compare` they are detached: an adapter that learned from the KV distance
    would shrink its target and the student with it.
    """

    def __init__(
        self,
        student: Sizes,
        teachers: Sequence[TeacherShape],
        method: str | Method = "procrustes",
        gate: float = 0.0,
    ) -> None:
        """Build one adapter per teacher and layer.

        Args:
            student: the student's sizes.
            teachers: M teachers.
            method: ``pca``, ``procrustes``, ``ridge``, or a function from
                statistics to (weight, bias).
            gate: see :class:`Bridge`.
        """
        super().__init__(student, teachers, gate)
        self.adapter = new_adapter(student, teachers)
        self.method = method

    def calibrate(self, m: int, k: PairStats, v: PairStats) -> dict[str, list[float]]:
        """Fit teacher m's adapter; see :meth:`Bridge.calibrate`."""
        super().calibrate(m, k, v)
        return self.adapter.calibrate(m, k.to_student, v.to_student, self.method)

    def compare(
        self, kv: KV, views: Sequence[TeacherView], weights: Tensor
    ) -> Sequence[Compared]:
        """One comparison with the fused target, in units of the student's spread."""
        with torch.no_grad():
            adapted = [
                self.carry(m, view, view.alignment) for m, view in enumerate(views)
            ]
            target_k = fuse_with_weights([k for k, _ in adapted], weights)
            target_v = fuse_with_weights([v for _, v in adapted], weights)
        k, v = kv.flat()
        return [
            Comparison(
                name="fused",
                pred_k=self.student_k(k),
                pred_v=self.student_v(v),
                target_k=self.student_k(target_k),
                target_v=self.student_v(target_v),
                weight=weights.sum(-1),
            )
        ]

    def in_student_space(
        self, views: Sequence[TeacherView]
    ) -> list[tuple[Tensor, Tensor]]:
        """Adapted teachers; see :meth:`Bridge.in_student_space`."""
        return [
            self.carry(m, view, view.causal or view.alignment)
            for m, view in enumerate(views)
        ]

    def carry(
        self, m: int, view: TeacherView, alignment: Alignment
    ) -> tuple[Tensor, Tensor]:
        """Teacher m's keys and values, (L, B, T_s, C_s), with gradient to its adapter.

        Args:
            m: its number.
            view: what it says.
            alignment: ``view.alignment`` for targets, ``view.causal`` for injection.
        """
        # Both maps are linear, so they commute; the student is the narrower one.
        k, v = view.met.flat()
        adapter, mask = self.adapter, view.met.mask
        k = self._adapted(
            m,
            k,
            mask=mask,
            weight=adapter.weight_k[m],
            bias=adapter.bias_k[m],
            means=self.position_k[m],
        )
        v = self._adapted(
            m,
            v,
            mask=mask,
            weight=adapter.weight_v[m],
            bias=adapter.bias_v[m],
            means=self.position_v[m],
        )
        return alignment.apply(k), alignment.apply(v)

    def _adapted(
        self,
        m: int,
        x: Tensor,
        *,
        mask: Tensor,
        weight: Tensor,
        bias: Tensor,
        means: nn.Module,
    ) -> Tensor:
        """(L_needed, B, T, C_t) -> (L_s, B, T, C_s), without what is the positions'."""
        assert isinstance(means, PositionMean)
        adapted = []
        for index, layer in enumerate(self.layers(m, x)):
            flat = layer.reshape(-1, layer.shape[-1]).to(weight.dtype)
            out = torch.addmm(bias[index], flat, weight[index])
            out = out.view(*mask.shape, -1)
            offset = means.offset(index, mask, weight[index])
            adapted.append(out if offset is None else out - offset)
        return torch.stack(adapted).to(x.dtype)
