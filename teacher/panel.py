"""Ask several teachers about one batch and hand the student what each one says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from align.across.tokens import aligned, are_beside
from align.causality import injected_alignment
from align.errors import InputError
from align.reading import Reading
from align.support.stopwatch import part
from align.time_align import Alignment
from align.tokens.batch import TokenBatch
from align.views import (
    ATTENTION,
    HEADS,
    KEYS_VALUES,
    Asked,
    NonFiniteTeacherError,
    Teacher,
    TeacherView,
)
from teacher.answers import Answers
from teacher.live_teacher import LiveTeacher
from teacher.partly.some_texts import (
    by_teacher,
    part_of,
    read_some,
    spread_view,
    unasked,
)

__all__ = ["Aligner", "LiveTeacher", "TeacherPanel"]


class Aligner(Protocol):
    """Maps a teacher's tokens onto the student's."""

    @property
    def causal(self) -> bool:
        """Whether no student token reads a teacher token that has read further."""

    def __call__(self, student: TokenBatch, teacher: TokenBatch) -> Alignment:
        """Align two tokenizations of the same texts."""


class TeacherPanel:
    """Several teachers, asked about the same texts in turn; live or stored alike."""

    def __init__(
        self,
        teachers: Sequence[Teacher],
        aligner: Aligner,
        causal_aligner: Aligner,
        *,
        layers: Mapping[str, Sequence[int]] | None = None,
        kv: Collection[str] | None = None,
        outputs: Collection[str] = (),
        attention: bool = False,
        heads: bool = False,
        states: Collection[str] = (),
        own_loss: bool = False,
        foretold: bool = False,
        autocast: torch.dtype | None = None,
        answers: Answers | None = None,
    ) -> None:
        """Choose what to ask for.

        Args:
            teachers: M teachers; the order of all views.
            aligner: for the losses.
            causal_aligner: for injection; must be causal.
            layers: by teacher, those whose keys and values, or attention, come; None
                for all. Who brings neither needs no entry.
            kv: teachers that are to bring their keys and values; None: all that have
                them.
            outputs: teachers that are to bring their next-token outputs.
            attention: also bring attention at the sampled rows.
            heads: also bring that of every head.
            states: also bring these of ``STATES``, after ``layers``.
            own_loss: also bring each decoder's bits per character.
            foretold: also bring how likely each decoder found its own tokens.
            autocast: dtype of the teachers' matrix products; None for their own.
            answers: what teachers said of these batches before; None asks them each
                time.

        Raises:
            ValueError: the aligner for injection is not causal.
        """
        if not causal_aligner.causal:
            raise InputError(
                f"{type(causal_aligner).__name__} lets teacher tokens show the future; "
                "injection takes causal aligners only, such as causal_char_iou"
            )
        self.teachers = tuple(teachers)
        self._aligner, self._causal = aligner, causal_aligner
        self._answers = answers
        self._asked = [
            Asked(
                layers=_layers(teacher, layers),
                kv=(
                    KEYS_VALUES not in teacher.lacks
                    if kv is None
                    else teacher.name in kv
                ),
                attention=attention and ATTENTION not in teacher.lacks,
                heads=heads and HEADS not in teacher.lacks,
                states=frozenset(states).difference(teacher.lacks),
                own_loss=own_loss,
                foretold=foretold,
                output=teacher.name in outputs,
                autocast=autocast,
            )
            for teacher in self.teachers
        ]

    def read(self, batch: TokenBatch, chosen: Tensor | None = None) -> list[Reading]:
        """What every teacher knows of the student's texts before it is asked.

        Args:
            batch: the student's tokens, (B, T_s).
            chosen: (B, M) bool, which teachers are asked about which text; None: all
                about all. What a teacher is not asked about it does not read.

        Raises:
            CausalityError: what would be injected shows the future.
            StoreError: a text is not in a store, or its shard is damaged.
        """
        with part("teachers"):
            return [
                self._read(teacher, asked, batch)
                if chosen is None
                else read_some(
                    partial(self._read, teacher, asked),
                    batch,
                    chosen[:, m],
                    teacher=teacher,
                    asked=asked,
                )
                for m, (teacher, asked) in enumerate(
                    zip(self.teachers, self._asked, strict=True)
                )
            ]

    @torch.no_grad()
    def __call__(
        self,
        batch: TokenBatch,
        rows: Tensor | None = None,
        readings: Sequence[Reading] | None = None,
        names: Collection[str] | None = None,
    ) -> list[TeacherView]:
        """Ask every teacher about the student's texts, or some of them.

        Args:
            batch: the student's tokens, (B, T_s).
            rows: (B, R) int64 student positions whose attention is compared.
            readings: of this batch, from :meth:`read`; None reads it here.
            names: of the teachers that are asked, in the panel's order; None: all.

        Raises:
            NonFiniteTeacherError: a teacher's KV are not finite.
            ValueError: a text is longer than a teacher's positions.
            StoreError: a text is not in a store, or its shard is damaged.
        """
        views: dict[str, TeacherView] = {}
        trouble: NonFiniteTeacherError | None = None
        readings = self.read(batch) if readings is None else readings
        every = [
            (teacher, reading, asked)
            for teacher, reading, asked in zip(
                self.teachers, readings, self._asked, strict=True
            )
            if names is None or teacher.name in names
        ]
        with part("teachers"):
            for teacher, reading, asked in every:
                if _rests(reading):
                    continue
                # All of them, whatever one says: what is split over processes has to
                # run equally often on each.
                part_read, at = part_of(reading, rows)
                try:
                    with by_teacher(reading):
                        view = self._ask(teacher, part_read, at, asked)
                        views[teacher.name] = spread_view(view, reading)
                except NonFiniteTeacherError as error:
                    trouble = trouble or error
        if trouble is not None:
            raise trouble
        kvs = [view.kv.k.dtype for view in views.values() if view.kv is not None]
        dtype = kvs[0] if kvs else torch.float32
        return [
            unasked(teacher, reading, asked, dtype)
            if _rests(reading)
            else views[teacher.name]
            for teacher, reading, asked in every
        ]

    def _ask(
        self, teacher: Teacher, reading: Reading, rows: Tensor | None, asked: Asked
    ) -> TeacherView:
        if self._answers is None:
            return teacher.ask(reading, rows, asked)
        return self._answers.ask(teacher, reading, rows, asked)

    def _read(self, teacher: Teacher, asked: Asked, student: TokenBatch) -> Reading:
        def align(tokens: TokenBatch) -> tuple[Alignment, Alignment | None]:
            with part("align"):
                alignment = aligned(self._aligner, student, tokens)
                if not teacher.causal or are_beside(student.texts):
                    return alignment, None
                causal = injected_alignment(
                    alignment,
                    self._aligner.causal,
                    self._causal,
                    student,
                    tokens,
                    who=f"teacher {teacher.name!r}",
                )
                return alignment, causal

        return teacher.read(student, align, asked)


def _rests(reading: Reading) -> bool:
    """Whether a teacher is asked about no text."""
    return reading.some is not None and reading.some.reading is None


def _layers(
    teacher: Teacher, layers: Mapping[str, Sequence[int]] | None
) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(teacher.sizes.layers))
    return tuple(layers.get(teacher.name, ()))
