"""Meet in a shared latent Z: encoders and decoders per teacher, and the student's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from align.calibration import Method
from align.kv import KV
from align.schedules import ScheduledNotNegative, Setting, is_on
from align.sizes import Sizes
from align.views import TeacherView
from fuse.config import Agreement
from fuse.fuse_kv import fuse_with_weights
from fuse.z.agreement import agreement_counts
from fuse.z.space import ZSpace
from student.bridges.base import Bridge, PairStats, TeacherShape
from student.objective import Comparison
from student.places import Places, Share
from student.trained import frozen

RECONSTRUCTION, AGREEMENT = "z_reconstruction", "z_agreement"


class LatentBridge(Bridge):
    """Teachers of any kind, encoders included, share a latent per layer."""

    learns_from_student = True

    def __init__(
        self,
        student: Sizes,
        teachers: Sequence[TeacherShape],
        z: ZSpace,
        lambda_reconstruction: ScheduledNotNegative = 1.0,
        lambda_agreement: ScheduledNotNegative = 0.1,
        gate: float = 0.0,
    ) -> None:
        """Hold an uncalibrated Z space.

        Args:
            student: the student's sizes.
            teachers: M teachers.
            z: coders for the same teachers and student.
            lambda_reconstruction: weight of decoding everything back from Z.
            lambda_agreement: weight of agreement between teachers.
            gate: see :class:`Bridge`.
        """
        super().__init__(student, teachers, gate)
        self.z = z
        self._weights: dict[str, Setting] = {
            RECONSTRUCTION: lambda_reconstruction,
            AGREEMENT: lambda_agreement,
        }

    @staticmethod
    def of_sizes(
        student: Sizes,
        teachers: Sequence[TeacherShape],
        adapter: Method | None = None,
        *,
        z_dim: int = 64,
        z_hidden: int = 0,
        z_agreement: Agreement = "mse",
        lambda_reconstruction: ScheduledNotNegative = 1.0,
        lambda_agreement: ScheduledNotNegative = 0.1,
    ) -> LatentBridge:
        """Build the coders, too.

        Args:
            student: the student's sizes.
            teachers: M teachers.
            adapter: of no use here, where no teacher is adapted.
            z_dim: width of Z, for keys and for values.
            z_hidden: width of the residual MLPs, 0: linear coders.
            z_agreement: ``mse`` or ``cosine``.
            lambda_reconstruction: weight of decoding everything back from Z.
            lambda_agreement: weight of agreement between teachers.

        Raises:
            ValueError: see :class:`fuse.z.space.ZSpace`.
        """
        z = ZSpace(
            teacher_dims=[(t.k_width, t.v_width) for t in teachers],
            student_dims=(student.k_width, student.v_width),
            num_layers=student.layers,
            z_dim=z_dim,
            hidden=z_hidden,
            agreement_kind=z_agreement,
        )
        return LatentBridge(
            student, teachers, z, lambda_reconstruction, lambda_agreement
        )

    def calibrate(self, m: int, k: PairStats, v: PairStats) -> dict[str, list[float]]:
        """Fit teacher m's coders; see :meth:`Bridge.calibrate`."""
        super().calibrate(m, k, v)
        if m == 0 or not self.z.student_calibrated:  # one never asked may come before
            self.z.calibrate_student(k.to_teacher, v.to_teacher)
        return self.z.calibrate(m, k.to_student, v.to_student)

    def compare(
        self, kv: KV, views: Sequence[TeacherView], weights: Tensor
    ) -> list[Comparison]:
        """The student's latent against the detached fused one.

        The student's encoder stands still here: it follows the student by
        reconstruction, and does not meet the target in the student's place.
        """
        with torch.no_grad():
            latents = self._latents(views, causal=False)
            target_k = fuse_with_weights([k for k, _ in latents], weights)
            target_v = fuse_with_weights([v for _, v in latents], weights)
        with frozen(self.z):
            pred_k, pred_v = self.z.encode_student(*kv.flat())
        return [
            Comparison(
                name="fused",
                pred_k=pred_k,
                pred_v=pred_v,
                target_k=target_k,
                target_v=target_v,
                weight=weights.sum(-1),
            )
        ]

    def in_student_space(
        self, views: Sequence[TeacherView]
    ) -> list[tuple[Tensor, Tensor]]:
        """Latents decoded to the student; see :meth:`Bridge.in_student_space`."""
        return [
            self.z.decode_to_student(k, v) for k, v in self._latents(views, causal=True)
        ]

    @property
    def auxiliary_weights(self) -> Mapping[str, tuple[str, Setting]]:
        """See :attr:`Bridge.auxiliary_weights`."""
        return {
            RECONSTRUCTION: (
                "fuse.lambda_reconstruction",
                self._weights[RECONSTRUCTION],
            ),
            AGREEMENT: ("fuse.lambda_agreement", self._weights[AGREEMENT]),
        }

    def auxiliary_counts(self, places: Places) -> dict[str, tuple[float, ...]]:
        """The tokens that Z reconstructs, and those on which teachers are to agree."""
        counts: dict[str, tuple[float, ...]] = {}
        if is_on(self._weights[RECONSTRUCTION]):
            masks = [*(r.mask for r in places.readings), places.batch.mask]
            counts[RECONSTRUCTION] = tuple(float(mask.sum()) for mask in masks)
        if is_on(self._weights[AGREEMENT]) and len(places.readings) > 1:
            covered = [r.alignment.covered for r in places.readings]
            counts[AGREEMENT] = agreement_counts(covered)
        return counts

    def auxiliary(
        self, kv: KV, views: Sequence[TeacherView], share: Share | None = None
    ) -> dict[str, Tensor]:
        """Reconstruction of every teacher and the student; agreement of teachers."""
        losses: dict[str, Tensor] = {}
        if is_on(self._weights[RECONSTRUCTION]):
            totals: Sequence[float | None] = [None] * (len(views) + 1)
            if share is not None:
                totals = share.step.terms[RECONSTRUCTION]
            parts = [
                self.z.reconstruction_loss(
                    m, *self.depth(m, view), view.met.mask, totals[m]
                )
                for m, view in enumerate(views)
            ]
            teacher_kv = kv.detach()
            parts.append(
                self.z.reconstruction_loss(
                    None, *teacher_kv.flat(), teacher_kv.mask, totals[-1]
                )
            )
            losses[RECONSTRUCTION] = torch.stack(parts).mean()
        if is_on(self._weights[AGREEMENT]) and len(views) > 1:
            latents = self._latents(views, causal=False)
            masks = [view.alignment.covered for view in views]
            tokens = None if share is None else share.step.terms[AGREEMENT]
            losses[AGREEMENT] = self.z.agreement_loss(latents, masks, tokens)
        return losses

    def _latents(
        self, views: Sequence[TeacherView], causal: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Each teacher's latent on the student's tokens, (L, B, T_s, Z)."""
        out = []
        for m, view in enumerate(views):
            alignment = (view.causal if causal else None) or view.alignment
            k, v = self.z.encode(m, *self.depth(m, view))
            out.append((alignment.apply(k), alignment.apply(v)))
        return out
