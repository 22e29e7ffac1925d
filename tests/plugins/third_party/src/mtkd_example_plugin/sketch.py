"""A place to meet: a few random directions that all teachers share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from align import KV, TeacherView
from student.bridges import AdapterBridge
from student.objective import Comparison


class Sketch(AdapterBridge):
    """Compares sketches of the student's and of every adapted teacher's features."""

    def __init__(self, student, teachers, adapter, *, size: int = 16) -> None:
        super().__init__(student, teachers, adapter)
        chance = torch.Generator().manual_seed(0)
        for side, width in (("k", student.k_width), ("v", student.v_width)):
            directions = torch.randn(width, size, generator=chance) / width**0.5
            self.register_buffer(f"directions_{side}", directions)

    def compare(
        self, kv: KV, views: Sequence[TeacherView], weights: Tensor
    ) -> list[Comparison]:
        with torch.no_grad():
            taught = [self.carry(m, v, v.alignment) for m, v in enumerate(views)]
        k, v = self.sketch(*kv.flat())
        targets = [self.sketch(*pair) for pair in taught]
        return [
            Comparison(
                name=view.name,
                pred_k=k,
                pred_v=v,
                target_k=target_k,
                target_v=target_v,
                weight=weights[..., m],
            )
            for m, (view, (target_k, target_v)) in enumerate(
                zip(views, targets, strict=True)
            )
        ]

    def sketch(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self.student_k(k) @ self.directions_k,
            self.student_v(v) @ self.directions_v,
        )
