"""Bring every teacher's heads and head sizes to the student's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from align.calibration import (
    METHODS,
    CalibrationStats,
    Method,
    r_squared,
    variance_kept,
)
from align.kv import KV


class MultiTeacherHeadDimAdapter(nn.Module):
    """One linear map a teacher and layer, for keys and for values.

    The maps start by grouping or repeating heads and are meant to be calibrated in
    closed form. Afterwards they may learn from the outcome, the student's next-token
    loss; trained by the distance to the student's KV they would collapse, so whoever
    computes that distance detaches what :meth:`adapt` returns.
    """

    def __init__(
        self,
        teacher_dims: Sequence[tuple[int, ...]],
        student_dim: int,
        student_heads: int,
        num_layers: int = 1,
        student_v_dim: int | None = None,
    ) -> None:
        """Build the maps.

        Args:
            teacher_dims: for each of M teachers (C_t, H_t), the width of one layer's
                keys and its key-value heads, or (C_t, H_t, C_v) where values are of
                another width.
            student_dim: C_s, the width of one layer's keys in the student.
            student_heads: H_s, the student's key-value heads.
            num_layers: L, the student's layers (map depth first); 1 serves
                any number of layers with one map.
            student_v_dim: the width of one layer's values; None is student_dim.

        Raises:
            ValueError: the heads do not divide a width.
        """
        super().__init__()
        self.student_dim = student_dim
        self.student_v_dim = student_dim if student_v_dim is None else student_v_dim
        self.student_heads = student_heads
        self.num_layers = num_layers
        self.teacher_heads: list[int] = []
        if num_layers < 1:
            raise ValueError(f"num_layers must be >= 1, got {num_layers}")
        _check_heads("student_dim", student_dim, student_heads)
        _check_heads("student_v_dim", self.student_v_dim, student_heads)
        self.weight_k, self.bias_k = nn.ParameterList(), nn.ParameterList()
        self.weight_v, self.bias_v = nn.ParameterList(), nn.ParameterList()
        for index, dims in enumerate(teacher_dims):
            if len(dims) not in (2, 3):
                raise ValueError(
                    f"teacher_dims[{index}] is {tuple(dims)}; give (key width, heads) "
                    "or (key width, heads, value width)"
                )
            width, heads, v_width = dims if len(dims) == 3 else (*dims, dims[0])
            _check_heads(f"teacher_dims[{index}]", width, heads)
            _check_heads(f"teacher_dims[{index}]", v_width, heads)
            self.teacher_heads.append(heads)
            for weight, bias, c_in, c_out in (
                (self.weight_k, self.bias_k, width, student_dim),
                (self.weight_v, self.bias_v, v_width, self.student_v_dim),
            ):
                grouped = group_heads(c_in, heads, c_out, student_heads)
                weight.append(nn.Parameter(grouped.repeat(num_layers, 1, 1)))
                bias.append(nn.Parameter(torch.zeros(num_layers, c_out)))

    @property
    def num_teachers(self) -> int:
        """M."""
        return len(self.weight_k)

    def adapt(self, teacher: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Map one teacher's flattened keys and values to the student's width.

        The map commutes with a character alignment, whose rows sum to 1: adapt first,
        at the teacher's length, then align, which is cheaper and leaves uncovered
        tokens at zero.

        Args:
            teacher: index of the teacher.
            k: (L, B, T, C_t) float.
            v: (L, B, T, C_v) float.

        Returns:
            (L, B, T, C_s) and (L, B, T, C_s of values), dtypes of ``k`` and ``v``.

        Raises:
            ValueError: the number of layers or a width does not match.
        """
        return (
            self._map(teacher, "k", k, self.weight_k[teacher], self.bias_k[teacher]),
            self._map(teacher, "v", v, self.weight_v[teacher], self.bias_v[teacher]),
        )

    @overload
    def forward(
        self, kvs_list: Sequence[KV | tuple[Tensor, Tensor]]
    ) -> list[KV | tuple[Tensor, Tensor]]: ...

    @overload
    def forward(
        self, kvs_list: Sequence[Tensor], vs: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]: ...

    def forward(
        self, kvs_list: Sequence[Any], vs: Sequence[Tensor] | None = None
    ) -> list[Any] | tuple[list[Tensor], list[Tensor]]:
        """Adapt all teachers: ``adapter(kvs_list)``, or ``adapter(ks, vs)``.

        Args:
            kvs_list: M of KV or of (keys, values); or, with ``vs``, M of keys.
                Tensors are (L, B, H_t, T, D_t), or one layer's (B, H_t, T, D_t), as in
                a cache; or flattened as in :meth:`adapt`.
            vs: M of values.

        Returns:
            M of the same type, in the student's heads and sizes; with ``vs`` a list of
            keys and one of values. Tensors have the axes they came with.

        Raises:
            ValueError: M differs, or shapes do not match.
        """
        if vs is not None and len(vs) != len(kvs_list):
            raise ValueError(
                f"{len(kvs_list)} teachers' keys and {len(vs)} teachers' values; give "
                "one of each a teacher"
            )
        teachers_kv = kvs_list if vs is None else list(zip(kvs_list, vs, strict=True))
        if len(teachers_kv) != self.num_teachers:
            raise ValueError(
                f"{len(teachers_kv)} teachers' KV for an adapter of "
                f"{self.num_teachers}; give one entry a teacher"
            )
        if vs is None:
            return [
                self._adapt_any(m, kv, headed=False) for m, kv in enumerate(teachers_kv)
            ]
        adapted = [
            self._adapt_any(m, kv, headed=True) for m, kv in enumerate(teachers_kv)
        ]
        return [k for k, _ in adapted], [v for _, v in adapted]

    def _adapt_any(self, teacher: int, kv: Any, headed: bool) -> Any:
        """Adapt what one teacher gave.

        Args:
            teacher: its index.
            kv: a KV or a pair.
            headed: what a tensor is that could be read both ways, as one layer with a
                head apart or as layers with a single head joined.
        """
        if isinstance(kv, KV):
            k, v = self.adapt(teacher, *kv.flat())
            return KV.from_flat(k, v, kv.mask, self.student_heads)
        k, v = kv
        heads = self.teacher_heads[teacher]
        if not _heads_apart(k, heads, self.weight_k[teacher].shape[1], headed):
            return self.adapt(teacher, k, v)
        one_layer = k.dim() == 4
        layers_k, layers_v = (k[None], v[None]) if one_layer else (k, v)
        mask = torch.ones(
            (layers_k.shape[1], k.shape[-2]), dtype=torch.bool, device=k.device
        )
        out = self._adapt_any(teacher, KV(layers_k, layers_v, mask), headed)
        return (out.k[0], out.v[0]) if one_layer else (out.k, out.v)

    @torch.no_grad()
    def calibrate(
        self,
        teacher: int,
        stats_k: CalibrationStats,
        stats_v: CalibrationStats,
        method: str | Method = "procrustes",
    ) -> dict[str, list[float]]:
        """Set one teacher's maps in closed form.

        Args:
            teacher: index of the teacher.
            stats_k: paired keys, teacher's as x and student's as y.
            stats_v: paired values.
            method: ``pca``, ``procrustes``, ``ridge``, or a function from statistics
                to (weight, bias).

        Returns:
            For each of ``k_`` and ``v_``, a list over layers: ``variance_kept``, the
            share of the teacher's variance that can be read back afterwards, in
            [0, 1], and ``r2`` of predicting the student's features, at which only
            ridge aims.

        Raises:
            ValueError: an unknown method, or sizes that do not match the adapter.
        """
        if isinstance(method, str) and method not in METHODS:
            raise ValueError(
                f"unknown calibration {method!r}; valid are "
                f"{', '.join(sorted(METHODS))} or a function"
            )
        solve = METHODS[method] if isinstance(method, str) else method
        report: dict[str, list[float]] = {}
        for name, stats, weight, bias in (
            ("k", stats_k, self.weight_k[teacher], self.bias_k[teacher]),
            ("v", stats_v, self.weight_v[teacher], self.bias_v[teacher]),
        ):
            sizes = (stats.num_layers, stats.dim_x, stats.dim_y)
            if sizes != tuple(weight.shape):
                raise ValueError(
                    f"teachers[{teacher}]: stats_{name} is for (layers, teacher width, "
                    f"student width) {sizes}, but the adapter has {tuple(weight.shape)}"
                )
            new_weight, new_bias = solve(stats)
            weight.copy_(new_weight)
            bias.copy_(new_bias)
            report[f"{name}_variance_kept"] = variance_kept(stats, new_weight).tolist()
            report[f"{name}_r2"] = r_squared(stats, new_weight, new_bias).tolist()
        return report

    def _map(
        self, teacher: int, name: str, x: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        layers = x.shape[0] if x.dim() == 4 else -1
        if self.num_layers not in (1, layers) or x.shape[-1] != weight.shape[1]:
            raise ValueError(
                f"teachers[{teacher}]: {name} has shape {tuple(x.shape)}; the adapter "
                f"takes ({self.num_layers}, B, T, {weight.shape[1]}), layers mapped to "
                "the student's first"
            )
        _, batch, tokens, width = x.shape
        flat = x.reshape(layers, batch * tokens, width).to(weight.dtype)
        out = torch.baddbmm(
            bias[:, None].expand(layers, -1, -1), flat, weight.expand(layers, -1, -1)
        )
        return out.view(layers, batch, tokens, weight.shape[-1]).to(x.dtype)


def group_heads(
    teacher_dim: int, teacher_heads: int, student_dim: int, student_heads: int
) -> Tensor:
    """Average or repeat heads, and cut or zero-pad within each.

    Student head i takes the mean of the teacher heads that cover the same stretch
    [i, i + 1) / H_s of all heads: groups where there are more, repeats where there
    are fewer.

    Args:
        teacher_dim: C_t.
        teacher_heads: H_t, divides C_t.
        student_dim: C_s.
        student_heads: H_s, divides C_s.

    Returns:
        (C_t, C_s) float32.
    """
    size_in, size_out = teacher_dim // teacher_heads, student_dim // student_heads
    heads = torch.zeros(teacher_heads, student_heads)
    for head in range(student_heads):
        first = head * teacher_heads // student_heads
        last = -(-(head + 1) * teacher_heads // student_heads)
        heads[first:last, head] = 1 / (last - first)
    # Channels are laid out head by head, C = H x D, which is the order of a Kronecker
    # product: one map between heads, times one within each.
    return torch.kron(heads, torch.eye(size_in, size_out))


def _heads_apart(x: Tensor, heads: int, width: int, headed: bool) -> bool:
    """Whether keys are (L, B, H, T, D) or (B, H, T, D), and not (L, B, T, C)."""
    if x.dim() != 4:
        return x.dim() == 5
    apart = x.shape[1] == heads and heads * x.shape[-1] == width
    return apart and (headed or x.shape[-1] != width)


def _check_heads(name: str, width: int, heads: int) -> None:
    if heads < 1 or width < 1 or width % heads:
        raise ValueError(
            f"{name}: {heads} heads do not divide width {width}; give the width of "
            "one layer's keys (heads times head size) and its key-value heads"
        )
