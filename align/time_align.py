"""Carry values from a teacher's tokens to the student's tokens of the same text."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from align.kv import KV
from align.support.caches import cache_layers, is_cache, map_layers

Held = Any
"""A KV, a tensor, or a ``past_key_values``: what keys and values are held in."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Which teacher tokens feed which student tokens, as a sparse list of pairs."""

    rows: Tensor
    """(N,) int64, ascending, into B * T_s: the student token of each pair."""
    cols: Tensor
    """(N,) int64, into B * T_t: the teacher token of each pair."""
    weights: Tensor
    """(N,) float32; those of one row sum to 1."""
    shape: tuple[int, int, int]
    """(B, T_s, T_t)."""
    shared: Tensor | None = field(default=None, kw_only=True)
    """(N,) float32, characters both tokens hold (0 where a row fell back to an
    earlier token); None counts ``weights`` instead."""

    def __post_init__(self) -> None:
        """Check the list of pairs.

        Raises:
            ValueError: lengths differ, rows descend, or an index is outside.
        """
        batch, student, teacher = self.shape
        pairs = self.rows.shape
        for name in ("rows", "cols", "weights", "shared"):
            value = getattr(self, name)
            if value is not None and (value.dim() != 1 or value.shape != pairs):
                raise ValueError(
                    f"Alignment.{name} has shape {tuple(value.shape)}, rows has "
                    f"{tuple(pairs)}; give one entry a pair"
                )
        if not len(self.rows):
            return
        if bool((self.rows[1:] < self.rows[:-1]).any()):
            raise ValueError("Alignment.rows must ascend; sort the pairs by row")
        reach = {  # rows ascend
            "rows": (self.rows[0], self.rows[-1], batch * student),
            "cols": (*self.cols.aminmax(), batch * teacher),
        }
        for name, (lowest, highest, limit) in reach.items():
            low, high = int(lowest), int(highest)
            if low < 0 or high >= limit:
                raise ValueError(
                    f"Alignment.{name} reaches {low}..{high}; shape {self.shape} "
                    f"allows 0..{limit - 1}"
                )

    @property
    def covered(self) -> Tensor:
        """(B, T_s) bool, True where a student token received teacher mass."""
        batch, student, _ = self.shape
        out = torch.zeros(batch * student, dtype=torch.bool, device=self.rows.device)
        out[self.rows] = True
        return out.view(batch, student)

    def coverage(self, student_mask: Tensor) -> float:
        """Share of the student's tokens that received teacher mass.

        Args:
            student_mask: (B, T_s) bool, the tokens that hold text
                (:attr:`TokenBatch.has_text`).

        Returns:
            A share in [0, 1]; 1 where no token holds text.
        """
        total = int(student_mask.sum())
        return int((self.covered & student_mask).sum()) / total if total else 1.0

    def apply(self, x: Tensor) -> Tensor:
        """Average the teacher's values onto the student's tokens.

        Args:
            x: (..., B, T_t, C) float.

        Returns:
            (..., B, T_s, C), dtype of ``x``, summed in float32 (float64 stays);
            zero on uncovered tokens. The gradient reaches ``x``.

        Raises:
            ValueError: ``x`` does not match the alignment's B and T_t.

        Source:
            A weighted bag of rows, ``embedding_bag(mode="sum")``.
        """
        batch, student, teacher = self.shape
        if x.dim() < 3 or tuple(x.shape[-3:-1]) != (batch, teacher):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; the alignment is for "
                f"(..., {batch}, {teacher}, C)"
            )
        width = x.shape[-1]
        shape = (*x.shape[:-3], batch, student, width)
        if not len(self.rows) or not x.numel():
            return x.new_zeros(shape) + 0 * x.sum()
        wide = x if x.dtype == torch.float64 else x.float()
        weights = self.weights.to(wide.dtype)
        tables = wide.numel() // (batch * teacher * width)
        counts = torch.bincount(self.rows, minlength=batch * student)
        starts = counts.cumsum(0) - counts
        # one bag over all tables: a bag each would be copied to stand beside the rest
        out = F.embedding_bag(
            _for_each(tables, self.cols, batch * teacher),
            wide.reshape(-1, width),
            _for_each(tables, starts, len(self.rows)),
            mode="sum",
            per_sample_weights=weights.repeat(tables),
        )
        return out.view(shape).to(x.dtype)

    def dense(self) -> Tensor:
        """(B, T_s, T_t) float32 matrix, for plots and small checks."""
        batch, student, teacher = self.shape
        out = self.weights.new_zeros(batch * student, teacher)
        if teacher:
            out.index_put_((self.rows, self.cols % teacher), self.weights, True)
        return out.view(batch, student, teacher)

    def spread_mass(self) -> Alignment:
        """The pairs weighted for values that must be shared out, not averaged.

        Every teacher token's mass (of attention, say) is divided among the student
        tokens it feeds, in proportion to the characters they share: the columns sum
        to 1, so :meth:`apply` keeps the total over covered teacher tokens.
        """
        mass = self.weights if self.shared is None else self.shared
        size = self.shape[0] * self.shape[2]
        total = mass.new_zeros(size).index_add_(0, self.cols, mass)
        alone = total[self.cols] == 0  # fed only by falling back
        mass = torch.where(alone, self.weights, mass)
        total = mass.new_zeros(size).index_add_(0, self.cols, mass)
        return replace(self, weights=mass / total[self.cols])

    def to(self, device: torch.device | str) -> Alignment:
        """Move the pairs."""
        return replace(
            self,
            rows=self.rows.to(device),
            cols=self.cols.to(device),
            weights=self.weights.to(device),
            shared=None if self.shared is None else self.shared.to(device),
        )


def _for_each(tables: int, index: Tensor, step: int) -> Tensor:
    """One list of indices a table, each ``step`` beyond the last, in a row."""
    shift = torch.arange(0, tables * step, step, device=index.device)
    return (shift[:, None] + index).flatten()


def apply_char_alignment(teacher_kv: Held, A: Tensor | Alignment) -> Held:
    """Carry teacher values to the student's tokens.

    A run has its aligner's :class:`Alignment` and applies it to projected features;
    this takes a matrix, and whatever holds keys and values, as well.

    Args:
        teacher_kv: a KV; a tensor (..., T_t, D); or a ``past_key_values``, that is a
            (keys, values) pair of (B, H, T_t, D) for every layer or a transformers
            ``Cache``. With an :class:`Alignment` a tensor is (..., B, T_t, D).
        A: dense (T_s, T_t) or (B, T_s, T_t) weights, or an Alignment. A three-axis
            matrix meets a tensor's axis before the heads only in a KV or a cache; for a
            tensor it broadcasts against (..., B, T_t, D).

    Returns:
        The same type with T_s in place of T_t; a cache gives a tuple of pairs. A KV's
        mask is True on the student tokens that received mass.

    Raises:
        ValueError: the sizes do not match.

    A cache's keys are rotated, each by its own position, so the average of several
    belongs to no position; content keys come from ``teacher.KVCapture``.
    """
    if isinstance(teacher_kv, KV):
        return _align_kv(teacher_kv, A)
    if is_cache(teacher_kv):
        return map_layers(teacher_kv, partial(_align_flat, A=A))
    if isinstance(A, Alignment):
        return A.apply(teacher_kv)
    if A.dim() not in (2, 3) or A.shape[-1] != teacher_kv.shape[-2]:
        raise ValueError(
            f"A has shape {tuple(A.shape)} and teacher_kv {tuple(teacher_kv.shape)}; "
            "give A as (T_s, T_t) or (B, T_s, T_t) for values (..., T_t, D)"
        )
    weights = A.to(device=teacher_kv.device, dtype=teacher_kv.dtype)
    return weights @ teacher_kv


def _align_flat(x: Tensor, A: Tensor | Alignment) -> Tensor:
    """(L, B, T_t, C) to (L, B, T_s, C)."""
    if isinstance(A, Alignment):
        return A.apply(x)
    batch, tokens = x.shape[1:3]
    if A.dim() not in (2, 3) or A.shape[-1] != tokens:
        raise ValueError(
            f"A has shape {tuple(A.shape)}, but the KV has {tokens} tokens; "
            f"give (T_s, {tokens}) or (B, T_s, {tokens})"
        )
    return A.expand(batch, -1, -1).to(device=x.device, dtype=x.dtype) @ x


def _align_kv(kv: KV, A: Tensor | Alignment) -> KV:
    k, v = kv.flat()
    if isinstance(A, Alignment):
        return KV.from_flat(A.apply(k), A.apply(v), A.covered, kv.num_heads)
    covered = (A.expand(kv.mask.shape[0], -1, -1) != 0).any(-1)
    return KV.from_flat(
        _align_flat(k, A), _align_flat(v, A), covered.to(k.device), kv.num_heads
    )


def align_sequence_lengths(
    teacher_kv: Held,
    student_kv: Held,
    align_matrix: Tensor | Alignment | None = None,
) -> tuple[Held, Held, Tensor, Tensor]:
    """Give teacher and student the same number of tokens.

    A run never pads one model to the other: an aligner carries every teacher to the
    student's tokens (:func:`apply_char_alignment`, which this calls).

    Args:
        teacher_kv: a KV, a tensor (..., T_t, D), or a ``past_key_values`` as of
            :func:`apply_char_alignment`.
        student_kv: the same, T_s tokens long.
        align_matrix: (T_s, T_t), (B, T_s, T_t) or an Alignment: the teacher is
            carried to the student's tokens. None pads the shorter with zeros on the
            right; nothing is cut.

    Returns:
        Teacher, student, and a bool mask for each, True on real tokens: (B, T) for
        a KV, (T,) or (B, T) for a tensor or a cache, which know of no padding. Under
        an alignment the teacher's mask marks the covered tokens.

    Raises:
        ValueError: the alignment does not match.
    """
    if align_matrix is not None:
        aligned = apply_char_alignment(teacher_kv, align_matrix)
        return (
            aligned,
            student_kv,
            _covered(aligned, align_matrix),
            _real(student_kv),
        )
    length = max(_length(teacher_kv), _length(student_kv))
    teacher_mask = _pad_tokens(_real(teacher_kv), length, axis=-1)
    student_mask = _pad_tokens(_real(student_kv), length, axis=-1)
    return (
        _pad_kv(teacher_kv, length),
        _pad_kv(student_kv, length),
        teacher_mask,
        student_mask,
    )


def _covered(aligned: Held, A: Tensor | Alignment) -> Tensor:
    if isinstance(aligned, KV):
        return aligned.mask
    return A.covered if isinstance(A, Alignment) else (A != 0).any(-1)


def _length(x: Held) -> int:
    return x.num_tokens if isinstance(x, KV) else len(_real(x))


def _real(x: Held) -> Tensor:
    if isinstance(x, KV):
        return x.mask
    first = cache_layers(x)[0][0] if is_cache(x) else x
    return torch.ones(first.shape[-2], dtype=torch.bool, device=first.device)


def _pad_kv(x: Held, length: int) -> Held:
    if isinstance(x, KV):
        return KV(
            _pad_tokens(x.k, length, axis=-2),
            _pad_tokens(x.v, length, axis=-2),
            _pad_tokens(x.mask, length, axis=-1),
        )
    if is_cache(x):
        return map_layers(x, partial(_pad_tokens, length=length, axis=-2))
    return _pad_tokens(x, length, axis=-2)


def _pad_tokens(x: Tensor, length: int, axis: int) -> Tensor:
    extra = length - x.shape[axis]
    return F.pad(x, (0, 0) * (-axis - 1) + (0, extra))
