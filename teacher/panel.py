"""Run several teachers on one batch and hand the student what each one says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from align.byte_lengths import ByteLengths
from align.causality import injected_alignment
from align.errors import InputError
from align.kv import KV
from align.output import LinearHead, Output
from align.reading import Reading
from align.stopwatch import part
from align.time_align import Alignment
from align.tokenizer_align import encode_batch
from align.tokens import TokenBatch
from align.view import NonFiniteTeacherError, TeacherView
from teacher.capture import KVCapture
from teacher.own_loss import teacher_bits_per_char

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Aligner(Protocol):
    """Maps a teacher's tokens onto the student's."""

    @property
    def causal(self) -> bool:
        """Whether no student token reads a teacher token that has read further."""

    def __call__(self, student: TokenBatch, teacher: TokenBatch) -> Alignment:
        """Align two tokenizations of the same texts."""


@dataclass(frozen=True, slots=True, eq=False)
class LiveTeacher:
    """A frozen model with its tokenizer and the layers that are needed of it."""

    name: str
    capture: KVCapture
    tokenizer: PreTrainedTokenizerBase
    layers: tuple[int, ...]
    """Kept layers, as the layer map's ``needed``."""
    head: LinearHead | None = None
    """Its head, see :func:`teacher.output_head.linear_head`, where its next-token
    output is asked for."""
    vocabulary: str = ""
    """Digest of its tokens, with ``head``."""


class TeacherPanel:
    """Several live teachers, asked about the same texts.

    Teachers run in turn, without gradient, and stop after their last needed layer
    unless their own loss is asked for.
    """

    def __init__(
        self,
        teachers: Sequence[LiveTeacher],
        aligner: Aligner,
        causal_aligner: Aligner,
        *,
        attention: bool = False,
        own_loss: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Choose what to ask for.

        Args:
            teachers: M teachers; the order of all views.
            aligner: for the losses.
            causal_aligner: for injection; must be causal.
            attention: also bring attention at the sampled rows.
            own_loss: also bring each decoder's bits per character.
            autocast: dtype of the teachers' matrix products; None for their own.

        Raises:
            ValueError: the aligner for injection is not causal.
        """
        if not causal_aligner.causal:
            raise InputError(
                f"{type(causal_aligner).__name__} lets teacher tokens show the future; "
                "injection takes causal aligners only, such as causal_char_iou"
            )
        self.teachers = tuple(teachers)
        self._tables = [ByteLengths.of(t.tokenizer) for t in self.teachers]
        self._aligner, self._causal = aligner, causal_aligner
        self._attention, self._own_loss = attention, own_loss
        self._autocast = autocast

    def read(self, batch: TokenBatch) -> list[Reading]:
        """Tokenise and align the student's texts for every teacher; nothing runs.

        Args:
            batch: the student's tokens, (B, T_s).

        Raises:
            CausalityError: what would be injected shows the future.
        """
        with part("teachers"):
            return [
                self._read(teacher, table, batch)
                for teacher, table in zip(self.teachers, self._tables, strict=True)
            ]

    @torch.no_grad()
    def __call__(
        self,
        batch: TokenBatch,
        rows: Tensor | None = None,
        readings: Sequence[Reading] | None = None,
    ) -> list[TeacherView]:
        """Ask every teacher about the student's texts.

        Args:
            batch: the student's tokens, (B, T_s).
            rows: (B, R) int64 student positions whose attention is compared.
            readings: of this batch, from :meth:`read`; None reads it here.

        Raises:
            NonFiniteTeacherError: a teacher's KV are not finite.
            ValueError: a text is longer than a teacher's positions.
        """
        views: list[TeacherView] = []
        trouble: NonFiniteTeacherError | None = None
        readings = self.read(batch) if readings is None else readings
        with part("teachers"):
            for teacher, reading in zip(self.teachers, readings, strict=True):
                # All of them, whatever one says: what is split over processes has to
                # run equally often on each.
                try:
                    views.append(self._view(teacher, reading, rows))
                except NonFiniteTeacherError as error:
                    trouble = trouble or error
        if trouble is not None:
            raise trouble
        return views

    def _read(
        self, teacher: LiveTeacher, table: ByteLengths | None, student: TokenBatch
    ) -> Reading:
        capture = teacher.capture
        own = encode_batch(teacher.tokenizer, student.texts, byte_lengths=table)
        own = own.to(student.ids.device)
        with part("align"):
            alignment = self._aligner(student, own)
            causal = None
            if capture.causal:
                causal = injected_alignment(
                    alignment,
                    self._aligner.causal,
                    self._causal,
                    student,
                    own,
                    f"teacher {teacher.name!r}",
                )
        return Reading(
            teacher.name,
            student,
            own,
            alignment,
            causal,
            own.mask,
            attention=self._attention,
            bits=self._own_loss and capture.causal and capture.has_logits,
            vocabulary=None if teacher.head is None else teacher.vocabulary,
        )

    def _view(
        self, teacher: LiveTeacher, reading: Reading, rows: Tensor | None
    ) -> TeacherView:
        capture, student = teacher.capture, reading.student
        assert reading.tokens is not None
        own = reading.tokens.to(capture.device)
        asked = own_rows = None
        if reading.attention and rows is not None:
            asked = reading.readable.gather(1, rows)
            own_rows = asked.clamp_min(0)
        device, on = capture.device.type, self._autocast is not None
        try:
            with torch.autocast(device, dtype=self._autocast, enabled=on):
                seen = capture(
                    own.ids,
                    own.mask,
                    layers=teacher.layers,
                    logits=reading.bits,
                    hidden=teacher.head is not None,
                    attention_rows=own_rows,
                )
        except InputError as error:
            raise InputError(f"teacher {teacher.name!r}: {error}") from error
        _check_finite(teacher.name, seen.kv, student.texts)
        home = student.ids.device
        attention = None
        if seen.attention is not None and rows is not None and asked is not None:
            with part("align"):
                attention = carry_attention(
                    seen.attention.to(home), reading.alignment, rows, asked >= 0
                )
        return TeacherView(
            teacher.name,
            seen.kv.to(home),
            reading.alignment,
            reading.causal,
            attention,
            None
            if seen.logits is None
            else teacher_bits_per_char(seen.logits, own).to(home),
            output=self._output(teacher, reading.tokens, seen.hidden),
        )

    def _output(
        self, teacher: LiveTeacher, own: TokenBatch, hidden: Tensor | None
    ) -> Output | None:
        """What the head is given, in the dtype in which the head would be applied."""
        if teacher.head is None or hidden is None:
            return None
        hidden = hidden.to(own.ids.device, self._autocast or hidden.dtype)
        return Output(own, hidden, teacher.head, teacher.vocabulary)


def carry_attention(
    attention: Tensor, alignment: Alignment, rows: Tensor, known: Tensor
) -> Tensor:
    """Turn attention over a teacher's tokens into attention over the student's.

    Every teacher token's mass is shared out among the student tokens it holds
    characters of. Mass on special tokens, and on student tokens after the query,
    falls away; what is left is scaled to 1.

    Args:
        attention: (L, B, R, T_t) float32 probabilities.
        alignment: teacher -> student.
        rows: (B, R) int64, the query's student position.
        known: (B, R) bool, False where no teacher token stands for the query.

    Returns:
        (L, B, R, T_s) float32, rows summing to 1, or to 0 where nothing was left.
    """
    tokens = torch.arange(alignment.shape[1], device=attention.device)
    past = tokens[:, None] <= rows[:, None]  # (B, T_s, R)
    mass = alignment.spread_mass().apply(attention.transpose(2, 3))
    mass *= past & known[:, None]
    total = mass.sum(2, keepdim=True)
    mass *= torch.where(total > 1e-3, 1 / total, 0.0)
    return mass.transpose(2, 3).contiguous()


def _check_finite(name: str, kv: KV, texts: Sequence[str]) -> None:
    good = torch.isfinite(kv.k.sum()) & torch.isfinite(kv.v.sum())
    if bool(good):
        return
    finite = torch.isfinite(kv.k).all(-1) & torch.isfinite(kv.v).all(-1)
    bad_texts = (~finite & kv.mask[None, :, None]).any((0, 2, 3))  # (B,)
    if not bool(bad_texts.any()):
        return  # a sum that overflowed, or padding
    layer = int((~finite).any(1).any(1).any(1).nonzero()[0])
    first = int(bad_texts.nonzero()[0])
    raise NonFiniteTeacherError(
        name,
        f"teacher {name!r} gives keys or values that are not finite, first in kept "
        f"layer {layer} on the text {texts[first][:60]!r}; load it in a wider dtype "
        f"(teachers.{name}.dtype=float32), check its weights, or leave it out. What "
        "the earlier phases wrote is intact",
    )
