"""A latent Z that all teachers and the student share, per layer.

Models of different families have no common basis. Here each has its own encoder
into Z and decoder out of it. They learn from reconstruction (Z keeps what each
model knows), from agreement (two teachers on one token land near each other) and
from the outcome; never from the distance to the student alone, which is smallest
where Z is empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from align.calibration import CalibrationStats
from align.errors import InputError
from align.support.field_types import checked
from fuse.config import Agreement
from fuse.z.agreement import agreement
from fuse.z.coder import LayerwiseCoder

Pair = tuple[Tensor, Tensor]
"""Keys and values, or their latents."""


class ZSpace(nn.Module):
    """Encoders and decoders of every teacher and of the student.

    Teachers are numbered 0..M-1; ``None`` stands for the student. All features
    are already on the student's layers: (L, B, T, C), on whosever tokens.
    """

    student_calibrated: Tensor
    """() bool, set by :meth:`calibrate_student`."""

    def __init__(
        self,
        *,
        teacher_dims: Sequence[tuple[int, int]],
        student_dims: tuple[int, int],
        num_layers: int,
        z_dim: int = 64,
        hidden: int = 0,
        agreement_kind: str = "mse",
    ) -> None:
        """Build orthogonal coders; :meth:`calibrate` gives them a better start.

        Args:
            teacher_dims: for each teacher the widths of keys and of values, all
                heads joined.
            student_dims: the same for the student.
            num_layers: L, the student's layers.
            z_dim: Z, for keys and for values.
            hidden: width of the residual MLPs, 0: linear coders.
            agreement_kind: ``mse`` or ``cosine``.

        Raises:
            InputError: a width is below 1, or another kind of agreement.
        """
        super().__init__()
        widths = [*teacher_dims, student_dims]
        if min(num_layers, z_dim, hidden + 1, *(min(pair) for pair in widths)) < 1:
            raise InputError(
                f"ZSpace got widths {widths}, {num_layers} layers, z_dim {z_dim} and "
                f"hidden {hidden}; give numbers >= 1 (hidden >= 0)"
            )
        checked(Agreement, agreement_kind, "agreement")
        self.z_dim, self.agreement_kind = z_dim, agreement_kind
        self.register_buffer("student_calibrated", torch.tensor(False))
        self.k_coders = nn.ModuleList(
            LayerwiseCoder(num_layers, k, z_dim, hidden) for k, _ in widths
        )
        self.v_coders = nn.ModuleList(
            LayerwiseCoder(num_layers, v, z_dim, hidden) for _, v in widths
        )

    @property
    def num_teachers(self) -> int:
        """M."""
        return len(self.k_coders) - 1

    def encode(self, model: int | None, k: Tensor, v: Tensor) -> Pair:
        """Map one model's features into Z.

        Args:
            model: teacher number, or None for the student.
            k: (L, B, T, C_k) float content keys.
            v: (L, B, T, C_v) float.

        Returns:
            Two (L, B, T, Z) float32, about unit variance once calibrated.

        Raises:
            ValueError: the widths or layers are another model's.
        """
        k_coder, v_coder = self._coders(model)
        _check(model, "k", k, k_coder)
        _check(model, "v", v, v_coder)
        return k_coder.encode(k), v_coder.encode(v)

    def decode(self, model: int | None, zk: Tensor, zv: Tensor) -> Pair:
        """Map latents (L, B, T, Z) to one model's features, in its own units."""
        k_coder, v_coder = self._coders(model)
        return k_coder.decode(zk), v_coder.decode(zv)

    def encode_student(self, k: Tensor, v: Tensor) -> Pair:
        """:meth:`encode` for the student."""
        return self.encode(None, k, v)

    def decode_to_student(self, zk: Tensor, zv: Tensor) -> Pair:
        """:meth:`decode` for the student: what may be injected into it."""
        return self.decode(None, zk, zv)

    def reconstruction_loss(
        self,
        model: int | None,
        k: Tensor,
        v: Tensor,
        mask: Tensor,
        total: float | None = None,
    ) -> Tensor:
        """How much of one model Z loses.

        Features are detached: the coders learn here, the student does not.

        Args:
            model: teacher number, or None for the student.
            k: (L, B, T, C_k) float.
            v: (L, B, T, C_v) float.
            mask: (B, T) bool, tokens that count.
            total: > 0, what the sum over tokens is divided by; None: their number.

        Returns:
            Scalar float32, the mean squared error per standardised channel: the
            share of variance lost, averaged over keys and values.
        """
        loss = torch.zeros((), device=k.device)
        count = total or mask.sum().clamp(min=1)
        for x, coder in zip((k, v), self._coders(model), strict=True):
            target = coder.standardise(x.detach())
            decoded = coder.decode_standardised(coder.encode(x.detach()))
            error = (decoded.float() - target).square().mean((0, 3))  # (B, T)
            error = torch.where(mask, error, torch.zeros_like(error)).sum()
            loss = loss + error / count
        return loss / 2

    def agreement_loss(
        self,
        z_list: Sequence[Pair],
        masks: Sequence[Tensor],
        totals: Sequence[float] | None = None,
    ) -> Tensor:
        """How far the teachers' latents of one token lie apart.

        Args:
            z_list: per teacher its (zk, zv), each (L, B, T, Z).
            masks: per teacher (B, T) bool, tokens it covers.
            totals: of the whole step; see :func:`fuse.z.agreement.agreement_counts`.

        Returns:
            Scalar, at least float32, the mean over keys and values; see
            :func:`fuse.z.agreement.agreement`.
        """
        keys, values = (
            agreement([z[side] for z in z_list], masks, self.agreement_kind, totals)
            for side in (0, 1)
        )
        return (keys + values) / 2

    def calibrate_student(
        self, stats_k: CalibrationStats, stats_v: CalibrationStats
    ) -> dict[str, list[float]]:
        """Start the student's coders from PCA; do this before the teachers'.

        Args:
            stats_k: statistics whose x is the student's keys.
            stats_v: statistics whose x is the student's values.

        Returns:
            ``variance_k``, ``variance_v``: per layer the share that Z keeps.
        """
        report = {}
        for name, stats, coder in zip(
            "kv", (stats_k, stats_v), self._coders(None), strict=True
        ):
            kept = coder.calibrate(stats.mean_x, stats.std_x, stats.cov_x)
            report[f"variance_{name}"] = kept.tolist()
        self.student_calibrated = torch.ones_like(self.student_calibrated)
        return report

    def calibrate(
        self, teacher: int, stats_k: CalibrationStats, stats_v: CalibrationStats
    ) -> dict[str, list[float]]:
        """Start a teacher's coders from PCA, turned towards the student's Z.

        Whitened principal directions are unique only up to a rotation; the one
        chosen makes teacher and student, hence all teachers, agree best.

        Args:
            teacher: its number.
            stats_k: statistics whose x is the teacher's keys, y the student's.
            stats_v: the same for values.

        Returns:
            ``variance_k``, ``variance_v``: per layer the share that Z keeps;
            ``agreement_k``, ``agreement_v``: mean correlation with the student's Z.

        Raises:
            ValueError: the student is not calibrated yet.
        """
        if not self.student_calibrated:
            raise ValueError(
                f"teacher {teacher} cannot meet the student in Z yet; call "
                "calibrate_student with statistics of the student first"
            )
        report: dict[str, list[float]] = {}
        coders, students = self._coders(teacher), self._coders(None)
        for name, stats, coder, student in zip(
            "kv", (stats_k, stats_v), coders, students, strict=True
        ):
            kept = coder.calibrate(stats.mean_x, stats.std_x, stats.cov_x)
            report[f"variance_{name}"] = kept.tolist()
            met = coder.rotate_towards(student, stats.cov_xy)
            report[f"agreement_{name}"] = met.tolist()
        return report

    def _coders(self, model: int | None) -> tuple[LayerwiseCoder, LayerwiseCoder]:
        if model is not None and not 0 <= model < self.num_teachers:
            raise ValueError(
                f"teacher {model} is not in Z, which has teachers "
                f"0..{self.num_teachers - 1}; None is the student"
            )
        index = self.num_teachers if model is None else model
        k_coder, v_coder = self.k_coders[index], self.v_coders[index]
        assert isinstance(k_coder, LayerwiseCoder)
        assert isinstance(v_coder, LayerwiseCoder)
        return k_coder, v_coder


def _check(model: int | None, name: str, x: Tensor, coder: LayerwiseCoder) -> None:
    layers, width = coder.mean.shape
    if x.dim() != 4 or x.shape[0] != layers or x.shape[3] != width:
        who = "the student" if model is None else f"teacher {model}"
        raise ValueError(
            f"{name} of {who} has shape {tuple(x.shape)}; Z was built for "
            f"({layers}, B, T, {width}): map layers and join heads first"
        )
