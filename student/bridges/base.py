"""The contract of a bridge: where teachers and student meet.

A bridge turns the teachers' views into comparisons (what the student's KV are
pulled towards, always detached) and into KV that the student can read in place of
its own (for the outcome, always causal). What it learns, it learns from the outcome
or against fixed targets; never by moving a target towards the student.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from align.calibration import CalibrationStats
from align.head_dim_adapter import MultiTeacherHeadDimAdapter
from align.kv import KV
from align.layer_map import LayerMap, interpolate_teacher_layers, mix_layer
from align.position_mean import PositionMean
from align.schedules import Setting
from align.sizes import Sizes
from align.views import TeacherView
from fuse.fuse_kv import fuse_with_weights
from fuse.weigher import share
from student.bridges.features import Features, LayerMixer
from student.bridges.standardize import Standardizer
from student.objective import Compared, Relation
from student.places import Places, Share


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherShape:
    """One teacher's sizes and its place in the student's depth."""

    name: str
    sizes: Sizes
    layer_map: LayerMap
    causal: bool
    """False for bidirectional teachers, which are never injected."""
    positions: bool = False
    """Whether keys and values lose what belongs to their positions."""

    @property
    def heads(self) -> int:
        """H."""
        return self.sizes.heads

    @property
    def k_width(self) -> int:
        """H * D_k of one layer."""
        return self.sizes.k_width

    @property
    def v_width(self) -> int:
        """H * D_v of one layer."""
        return self.sizes.v_width


@dataclass(frozen=True, slots=True, eq=False)
class PairStats:
    """Sums over the calibration sample for one teacher, keys or values."""

    to_student: CalibrationStats
    """x: teacher, y: student."""
    to_teacher: CalibrationStats
    """x: student, y: teacher."""


class Bridge(nn.Module, ABC):
    """Standardisation, depth, injection and relations; subclasses compare."""

    learns_from_student = False
    """Whether ``auxiliary`` reads the student's keys and values."""

    def __init__(
        self,
        student: Sizes,
        teachers: Sequence[TeacherShape],
        gate: float = 0.0,
    ) -> None:
        """Build an uncalibrated bridge.

        Args:
            student: the student's sizes.
            teachers: M teachers, in the order of every later list of views.
            gate: logit of the injection gates at the start; 0 is half and half.
        """
        super().__init__()
        self.student, self.teachers = student, tuple(teachers)
        layers = student.layers
        self.gate_logit = nn.Parameter(torch.full((layers,), float(gate)))
        self.student_k = Standardizer(layers, student.k_width)
        self.student_v = Standardizer(layers, student.v_width)
        self.position_k = nn.ModuleList(
            PositionMean(layers, t.k_width) for t in teachers
        )
        self.position_v = nn.ModuleList(
            PositionMean(layers, t.v_width) for t in teachers
        )
        self.teacher_k = nn.ModuleList(
            Standardizer(layers, t.k_width) for t in teachers
        )
        self.teacher_v = nn.ModuleList(
            Standardizer(layers, t.v_width) for t in teachers
        )

    @abstractmethod
    def calibrate(self, m: int, k: PairStats, v: PairStats) -> dict[str, list[float]]:
        """Fit teacher m in closed form; call ``super().calibrate`` first.

        Returns:
            What to report, each a list over the student's layers, such as the
            share of the teacher's variance that survives.
        """
        for pair, student, teacher in (
            (k, self.student_k, self.teacher_k[m]),
            (v, self.student_v, self.teacher_v[m]),
        ):
            assert isinstance(teacher, Standardizer)
            student.fit(pair.to_student.mean_y, pair.to_student.std_y)
            teacher.fit(pair.to_student.mean_x, pair.to_student.std_x)
        return {}

    @abstractmethod
    def compare(
        self, kv: KV, views: Sequence[TeacherView], weights: Tensor
    ) -> Sequence[Compared]:
        """Pair the student's KV with detached targets.

        Args:
            kv: the student's, (L, B, H, T, D), with gradient.
            views: M teachers.
            weights: (B, T, M) float32, detached; 0 where a token does not count.
        """

    @abstractmethod
    def in_student_space(
        self, views: Sequence[TeacherView]
    ) -> list[tuple[Tensor, Tensor]]:
        """Each teacher's (k, v) as (L, B, T_s, C) in the student's dimensions.

        Carried by the causal alignment, with gradient to the bridge. Bidirectional
        teachers are the caller's to leave out.
        """

    @property
    def auxiliary_weights(self) -> Mapping[str, tuple[str, Setting]]:
        """Which of its own losses are weighed by a setting that may move.

        Returns:
            By the loss's name the setting's place, such as ``fuse.lambda_agreement``,
            and its value; :meth:`auxiliary` gives those losses before their weight.
        """
        return {}

    def auxiliary_counts(self, places: Places) -> dict[str, tuple[float, ...]]:
        """What the places of the bridge's own losses weigh; see :class:`Counts`."""
        return {}

    def auxiliary(
        self, kv: KV, views: Sequence[TeacherView], share: Share | None = None
    ) -> dict[str, Tensor]:
        """Losses of the bridge's own modules; none by default. They are weighed
        already, but for those of :attr:`auxiliary_weights`.

        Args:
            kv: the student's.
            views: M teachers.
            share: of the optimiser step; None: this pass is all there is.
        """
        return {}

    def fuse_for_injection(
        self, views: Sequence[TeacherView], weights: Tensor
    ) -> KV | None:
        """The fused causal KV in the student's dimensions, with gradient.

        Args:
            views: M teachers; those without a causal alignment are left out.
            weights: (B, T, M) float32 with the router's gradient.

        Returns:
            A KV whose mask says which tokens some causal teacher covers; None when
            no teacher is causal.
        """
        causal = [m for m, view in enumerate(views) if view.causal is not None]
        if not causal:
            return None
        chosen = [views[m] for m in causal]
        covered = torch.stack(
            [view.causal.covered for view in chosen if view.causal is not None], -1
        )
        alpha = share(weights[..., causal], covered)
        heads = self.student.heads
        kvs = [
            KV.from_flat(k, v, covered[..., i], heads)
            for i, (k, v) in enumerate(self._chosen_in_student_space(views, causal))
        ]
        return fuse_with_weights(kvs, alpha)

    def _chosen_in_student_space(
        self, views: Sequence[TeacherView], causal: Sequence[int]
    ) -> list[tuple[Tensor, Tensor]]:
        every = self.in_student_space(views)
        return [every[m] for m in causal]

    def relations(
        self, kv: KV, views: Sequence[TeacherView], weights: Tensor, rows: Tensor
    ) -> list[Relation]:
        """Pair the student's and every teacher's features without projecting.

        Args:
            kv: the student's.
            views: M teachers.
            weights: (B, T, M) float32, detached.
            rows: (B, R) int64, tokens whose relations are compared.
        """
        k, v = kv.flat()
        own_k, own_v = self.student_k(k), self.student_v(v)
        sizes_k, sizes_v = self.student_k.sizes(), self.student_v.sizes()
        aligned = [self.aligned(m, view) for m, view in enumerate(views)]
        return [
            Relation(
                name=view.name,
                student_k=own_k,
                student_v=own_v,
                teacher_k=teacher_k,
                teacher_v=teacher_v,
                weight=weights[..., m],
                rows=rows,
                sizes_k=(sizes_k, cast(Standardizer, self.teacher_k[m]).sizes()),
                sizes_v=(sizes_v, cast(Standardizer, self.teacher_v[m]).sizes()),
            )
            for m, (view, (teacher_k, teacher_v)) in enumerate(
                zip(views, aligned, strict=True)
            )
        ]

    def depth(self, m: int, view: TeacherView) -> tuple[Tensor, Tensor]:
        """Teacher m on the student's layers: (L_s, B, T_t, C_t), keys and values.

        Less what belongs to positions, where that was fitted.
        """
        k, v = view.met.flat()
        return (
            self.position_k[m](self.mix_depth(m, k), view.met.mask),
            self.position_v[m](self.mix_depth(m, v), view.met.mask),
        )

    def mix_depth(self, m: int, x: Tensor) -> Tensor:
        """Teacher m's needed layers (L_needed, ...) -> the student's (L_s, ...)."""
        layer_map = self.teachers[m].layer_map
        mixed = interpolate_teacher_layers(
            [x], [layer_map], self.student.layers, kept=True
        )[0]
        assert isinstance(mixed, Tensor)
        return mixed

    def layers(self, m: int, x: Tensor) -> Iterator[Tensor]:
        """:meth:`mix_depth` layer by layer, each of a size that stays in the cache."""
        for feeds in self.teachers[m].layer_map.remap():
            yield mix_layer(x, feeds)

    def aligned(self, m: int, view: TeacherView) -> tuple[Tensor, Tensor]:
        """Teacher m standardised on the student's layers and tokens, detached."""
        k, v = self.features(m, view)
        return k.aligned(), v.aligned()

    def features(self, m: int, view: TeacherView) -> tuple[Features, Features]:
        """Teacher m standardised on the student's layers and the tokens it feeds."""
        k, v = view.met.flat()
        carry = LayerMixer(view.alignment)
        return (
            self._features(
                m,
                view,
                carry=carry,
                x=k,
                means=self.position_k[m],
                standard=self.teacher_k[m],
            ),
            self._features(
                m,
                view,
                carry=carry,
                x=v,
                means=self.position_v[m],
                standard=self.teacher_v[m],
            ),
        )

    @torch.no_grad()
    def _features(
        self,
        m: int,
        view: TeacherView,
        *,
        carry: LayerMixer,
        x: Tensor,
        means: nn.Module,
        standard: nn.Module,
    ) -> Features:
        assert isinstance(means, PositionMean) and isinstance(standard, Standardizer)
        x, place = x.float().flatten(1, 2), None
        if means.fitted:
            place = means.places(view.met.mask).flatten()
        features = []
        for index, feeds in enumerate(self.teachers[m].layer_map.remap()):
            layer = carry(x, feeds)
            if place is not None:
                layer -= carry.rows(means.rows(index), place)
            features.append(standard.layer_(index, layer))
        return Features(tuple(features), carry.tokens, view.alignment.shape[:2])

    @property
    def gates(self) -> Tensor:
        """(L,) in (0, 1): how much of the fused KV each layer reads."""
        return self.gate_logit.sigmoid()


def new_adapter(
    student: Sizes, teachers: Sequence[TeacherShape]
) -> MultiTeacherHeadDimAdapter:
    """An adapter from every teacher's dimensions to the student's, per layer."""
    return MultiTeacherHeadDimAdapter(
        [(t.k_width, t.heads, t.v_width) for t in teachers],
        student.k_width,
        student.heads,
        num_layers=student.layers,
        student_v_dim=student.v_width,
    )
