"""Meet in each teacher's own dimensions: projectors, and a weighted sum of losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from align.calibration import METHODS, CalibrationStats, Method
from align.kv import KV
from align.view import TeacherView
from student.bridges.adapter import AdapterBridge
from student.bridges.base import PairStats, StudentShape, TeacherShape
from student.objective import Comparison
from student.standardize import Standardizer


class ProjectorBridge(AdapterBridge):
    """Student -> teacher projectors for the losses, adapters for the outcome.

    A projector may learn from the KV distance, because the teacher stands still.
    No teacher's basis has to agree with another's: routing weights multiply losses.
    """

    def __init__(
        self,
        student: StudentShape,
        teachers: Sequence[TeacherShape],
        method: str | Method = "procrustes",
        gate: float = 0.0,
    ) -> None:
        """Build projectors and adapters; arguments as :class:`AdapterBridge`."""
        super().__init__(student, teachers, method, gate)
        layers = student.layers
        self.project_k = nn.ModuleList(
            LayerwiseLinear(layers, student.k_width, t.k_width) for t in teachers
        )
        self.project_v = nn.ModuleList(
            LayerwiseLinear(layers, student.v_width, t.v_width) for t in teachers
        )

    def calibrate(self, m: int, k: PairStats, v: PairStats) -> dict[str, list[float]]:
        """Fit adapter and projector of teacher m; see :meth:`Bridge.calibrate`."""
        report = super().calibrate(m, k, v)
        for stats, project, own, teacher in (
            (k.to_teacher, self.project_k[m], self.student_k, self.teacher_k[m]),
            (v.to_teacher, self.project_v[m], self.student_v, self.teacher_v[m]),
        ):
            assert isinstance(project, LayerwiseLinear)
            assert isinstance(teacher, Standardizer)
            project.fit(stats, own, teacher)
        return report

    def compare(
        self, kv: KV, views: Sequence[TeacherView], weights: Tensor
    ) -> list[Comparison]:
        """One comparison per teacher, in units of that teacher's own spread."""
        k, v = kv.flat()
        k, v = self.student_k(k), self.student_v(v)
        return [
            Comparison(
                view.name,
                self.project_k[m](k),
                self.project_v[m](v),
                *self.aligned(m, view),
                weights[..., m],
            )
            for m, view in enumerate(views)
        ]


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
