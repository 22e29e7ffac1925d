"""Meet in each teacher's own dimensions: projectors, and a weighted sum of losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from align.calibration import Method
from align.kv import KV
from align.sizes import Sizes
from align.views import TeacherView
from student.bridges.adapter import AdapterBridge
from student.bridges.base import PairStats, TeacherShape
from student.bridges.projected import LayerwiseLinear, Projected, project
from student.bridges.standardize import Standardizer
from student.objective import Compared


class ProjectorBridge(AdapterBridge):
    """Student -> teacher projectors for the losses, adapters for the outcome.

    A projector may learn from the KV distance, because the teacher stands still.
    No teacher's basis has to agree with another's: routing weights multiply losses.
    """

    def __init__(
        self,
        student: Sizes,
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
        for stats, projector, student, teacher in (
            (k.to_teacher, self.project_k[m], self.student_k, self.teacher_k[m]),
            (v.to_teacher, self.project_v[m], self.student_v, self.teacher_v[m]),
        ):
            assert isinstance(projector, LayerwiseLinear)
            assert isinstance(teacher, Standardizer)
            projector.fit(stats, student, teacher)
        return report

    def compare(
        self, kv: KV, views: Sequence[TeacherView], weights: Tensor
    ) -> Sequence[Compared]:
        """One comparison per teacher, in units of that teacher's own spread."""
        k, v = kv.flat()
        targets = [self.features(m, view) for m, view in enumerate(views)]
        keys = project(
            self.student_k(k), self._maps(self.project_k), [t[0] for t in targets]
        )
        values = project(
            self.student_v(v), self._maps(self.project_v), [t[1] for t in targets]
        )
        return [
            Projected(name=view.name, k=key, v=value, weight=weights[..., m])
            for m, (view, key, value) in enumerate(
                zip(views, keys, values, strict=True)
            )
        ]

    def _maps(self, modules: nn.ModuleList) -> list[LayerwiseLinear]:
        return [cast(LayerwiseLinear, module) for module in modules]
