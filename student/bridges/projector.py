"""Meet in each teacher's own dimensions: projectors, and a weighted sum of losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from align.calibration import Method
from align.kv import KV
from align.sizes import Sizes
from align.support.field_types import Share, checked
from align.views import TeacherView
from fuse.weigher import share
from student.bridges.adapter import AdapterBridge
from student.bridges.base import PairStats, TeacherShape
from student.bridges.projected import (
    LayerwiseLinear,
    Projected,
    ProjectedSide,
    project,
)
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
        *,
        scale: Literal["channel", "layer"] = "channel",
        drop_easier: Share = 0.0,
    ) -> None:
        """Build projectors and adapters; further arguments as :class:`AdapterBridge`.

        Args:
            student: the student's sizes.
            teachers: M teachers.
            method: of the adapters.
            gate: of the injection.
            scale: whether every channel of a teacher's layer is divided by a scale of
                its own, or all by one.
            drop_easier: probability in [0, 1] with which a text does without a teacher
                that is easier for it than another, see :func:`without_easier`; drawn
                while it is trained, for ``kv_k``, ``kv_v`` and ``cosine`` alone.

        Raises:
            InputError: an option out of range.
        """
        super().__init__(student, teachers, method, gate)
        checked(Literal["channel", "layer"], scale, "scale")
        checked(Share, drop_easier, "drop_easier")
        self.scale, self.drop_easier = scale, drop_easier
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
        if self.scale == "layer":
            for standard in (self.teacher_k[m], self.teacher_v[m]):
                cast(Standardizer, standard).one_scale()
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
        if self.drop_easier and self.training and torch.is_grad_enabled():
            weights = self._dropped(keys, values, weights)
        return [
            Projected(name=view.name, k=key, v=value, weight=weights[..., m])
            for m, (view, key, value) in enumerate(
                zip(views, keys, values, strict=True)
            )
        ]

    @torch.no_grad()
    def _dropped(
        self,
        keys: Sequence[ProjectedSide],
        values: Sequence[ProjectedSide],
        weights: Tensor,
    ) -> Tensor:
        apart = torch.stack(
            [
                (key.products.distance() + value.products.distance()).mean(0)
                for key, value in zip(keys, values, strict=True)
            ],
            -1,
        )
        drawn = torch.rand(apart.shape[0], apart.shape[2], device=apart.device)
        return without_easier(apart, weights, drawn < self.drop_easier)

    def _maps(self, modules: nn.ModuleList) -> list[LayerwiseLinear]:
        return [cast(LayerwiseLinear, module) for module in modules]


def without_easier(apart: Tensor, weights: Tensor, dropped: Tensor) -> Tensor:
    """Leave out, text by text, teachers that are easier than the hardest one.

    What a teacher weighed on a token goes to those that stay, by their weights; a token
    on which none of them weighs anything keeps what it had. So tokens weigh together
    what they did.

    Args:
        apart: (B, T, M) float, how far the student is from every teacher, on scales
            that can be compared.
        weights: (B, T, M) or (L, B, T, M) float32 >= 0.
        dropped: (B, M) bool, which are left out unless they are their text's hardest:
            the teacher with the largest mean of ``apart`` over the tokens on which it
            weighs anything.

    Returns:
        As ``weights``.

    Source:
        Sariyildiz et al. 2024, UNIC (arXiv 2408.05088), teacher dropping. Departure:
        weights are dealt anew, so that a text counts as much whatever was drawn.
    """
    known = weights > 0
    if known.dim() == 4:
        known = known.any(0)
    mean = (apart * known).sum(1) / known.sum(1).clamp_min(1)
    hardest = mean.masked_fill(~known.any(1), -torch.inf).argmax(1)  # (B,)
    stays = ~dropped
    stays[torch.arange(len(stays), device=stays.device), hardest] = True
    whole = weights.sum(-1, keepdim=True)
    dealt = share(weights, stays[:, None].expand_as(apart)) * whole
    return torch.where(dealt.sum(-1, keepdim=True) > 0, dealt, weights)
