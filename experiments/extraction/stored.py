"""Read teachers from a store where a run would have asked them live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from align.byte_lengths import ByteLengths
from align.causality import injected_alignment
from align.kv import KV
from align.reading import Reading
from align.time_align import Alignment
from align.tokens import TokenBatch, encode_batch
from align.view import TeacherView
from experiments.extraction.stand_ins import Teacher
from teacher.panel import Aligner
from teacher.store import KVStore, StoreError
from teacher.store.packing import StoredSample


@dataclass(frozen=True, slots=True, eq=False)
class StoredTeacher:
    """One store with what is needed to use it."""

    name: str
    store: KVStore
    tokenizer: Any
    """The teacher's, for ``raw``; others are on the student's tokens already."""
    layers: tuple[int, ...]
    """Places among the stored layers that the layer map reads."""
    causal: bool

    @property
    def on_student_tokens(self) -> bool:
        """Whether the KV are aligned already."""
        return self.store.plan.form != "raw"


class StoredPanel:
    """Several stored teachers, asked as :class:`teacher.panel.TeacherPanel` is."""

    def __init__(
        self,
        teachers: Sequence[StoredTeacher],
        aligner: Aligner,
        causal_aligner: Aligner,
    ) -> None:
        """Choose the teachers and how ``raw`` ones are aligned.

        Args:
            teachers: M teachers; the order of all views.
            aligner: for the losses.
            causal_aligner: for injection.
        """
        self.teachers = tuple(teachers)
        self._aligner, self._causal = aligner, causal_aligner
        self._tables = [
            None if t.on_student_tokens else ByteLengths.of(t.tokenizer)
            for t in self.teachers
        ]

    def read(self, batch: TokenBatch) -> list[Reading]:
        """What the stores know of the student's texts; no keys and values are read.

        Args:
            batch: the student's tokens, (B, T_s).

        Raises:
            StoreError: a text is not in a store, or its shard is damaged.
            CausalityError: what would be injected shows the future.
        """
        return [
            self._on_student_tokens(teacher, batch)
            if teacher.on_student_tokens
            else self._raw(teacher, table, batch)
            for teacher, table in zip(self.teachers, self._tables, strict=True)
        ]

    def __call__(
        self,
        batch: TokenBatch,
        rows: Tensor | None = None,
        readings: Sequence[Reading] | None = None,
    ) -> list[TeacherView]:
        """Read every teacher's KV of the student's texts.

        Args:
            batch: the student's tokens, (B, T_s).
            rows: not used: stores hold no queries.
            readings: of this batch, from :meth:`read`; None reads it here.

        Raises:
            StoreError: a text is not in a store, or its shard is damaged.
        """
        readings = self.read(batch) if readings is None else readings
        return [
            _view(teacher, reading)
            for teacher, reading in zip(self.teachers, readings, strict=True)
        ]

    def _raw(
        self, teacher: StoredTeacher, table: ByteLengths | None, student: TokenBatch
    ) -> Reading:
        own = encode_batch(teacher.tokenizer, student.texts, byte_lengths=table)
        heads = [read_text(teacher, text, whole=False) for text in student.texts]
        own = _without_skipped(own, heads)
        lengths = own.mask.sum(1).tolist()
        for text, sample, length in zip(student.texts, heads, lengths, strict=True):
            if len(sample.origin) != length:
                raise StoreError(
                    f"teacher {teacher.name!r}: its tokenizer makes {length} tokens of "
                    f"the text {text[:60]!r}, the store {teacher.store.path} holds "
                    f"{len(sample.origin)}; the tokenizer has changed: extract again"
                )
        own = own.to(student.ids.device)
        alignment = self._aligner(student, own)
        causal = None
        if teacher.causal:
            causal = injected_alignment(
                alignment,
                self._aligner.causal,
                self._causal,
                student,
                own,
                f"teacher {teacher.name!r}",
            )
        bits = _bits(heads, own.mask) is not None
        return Reading(
            teacher.name, student, own, alignment, causal, own.mask, bits=bits
        )

    def _on_student_tokens(
        self, teacher: StoredTeacher, student: TokenBatch
    ) -> Reading:
        heads = [read_text(teacher, text, whole=False) for text in student.texts]
        home = student.ids.device
        origin = torch.zeros(student.ids.shape, dtype=torch.int64)
        for row, sample in enumerate(heads):
            tokens = min(len(sample.origin), origin.shape[1])  # its end may be missing
            origin[row, :tokens] = sample.origin[:tokens]
        origin = origin.to(home)
        alignment = same_tokens(origin > 0)
        return Reading(
            teacher.name,
            student,
            None,
            alignment,
            alignment if teacher.causal else None,
            student.mask,
            origin - 1,
            bits=_bits(heads, student.mask) is not None,
        )


def _view(teacher: StoredTeacher, reading: Reading) -> TeacherView:
    found = [read_text(teacher, text) for text in reading.student.texts]
    return TeacherView(
        teacher.name,
        padded(found, reading.mask, teacher.store.plan.shape.heads),
        reading.alignment,
        reading.causal,
        None,
        _bits(found, reading.mask),
        reading.origin,
    )


def stored_views(
    teachers: Mapping[str, Teacher], layers: Mapping[str, Sequence[int]]
) -> list[StoredTeacher]:
    """The stores behind stand-ins, with the layers that are read of each.

    Raises:
        StoreError: a layer is not stored.
    """
    out = []
    for name, (loaded, capture) in teachers.items():
        places = capture.places(layers[name])
        assert capture.store is not None
        out.append(
            StoredTeacher(name, capture.store, loaded.tokenizer, places, capture.causal)
        )
    return out


def read_text(teacher: StoredTeacher, text: str, whole: bool = True) -> StoredSample:
    """Read one text's KV.

    Args:
        teacher: whose.
        text: as it was extracted.
        whole: False leaves keys and values where they are.

    Raises:
        StoreError: the text was not extracted.
    """
    index = teacher.store.find(text)
    if index is None:
        raise StoreError(
            f"{teacher.store.path} does not hold the text {text[:60]!r}: the run reads "
            "other text than was extracted (data, run.seed and the student's tokenizer "
            "decide); run `mtkd extract` with this config"
        )
    if not whole:
        return teacher.store.read_sample(index, (), ())
    return teacher.store.read_sample(index, teacher.layers)


def padded(found: Sequence[StoredSample], mask: Tensor, heads: int) -> KV:
    """One batch of samples.

    Args:
        found: B samples of up to T tokens.
        mask: (B, T) bool on the device the KV shall be on.
        heads: H.
    """
    first = found[0]
    layers = first.k.shape[0]
    k = first.k.new_zeros(layers, *mask.shape, first.k.shape[-1])
    v = first.v.new_zeros(layers, *mask.shape, first.v.shape[-1])
    for row, sample in enumerate(found):
        tokens = min(sample.k.shape[1], mask.shape[1])
        k[:, row, :tokens] = sample.k[:, :tokens]
        v[:, row, :tokens] = sample.v[:, :tokens]
    return KV.from_flat(k.to(mask.device), v.to(mask.device), mask, heads)


def same_tokens(covered: Tensor) -> Alignment:
    """The alignment of KV that are on the student's tokens already.

    Args:
        covered: (B, T) bool, tokens that have KV.
    """
    batch, tokens = covered.shape
    rows = covered.flatten().nonzero()[:, 0]
    weights = torch.ones(len(rows), device=rows.device)
    return Alignment(rows, rows, weights, (batch, tokens, tokens))


def _without_skipped(own: TokenBatch, found: Sequence[StoredSample]) -> TokenBatch:
    """Give texts that were skipped no tokens, so that nothing is aligned to them."""
    kept = torch.tensor([len(sample.origin) > 0 for sample in found])
    mask = own.mask & kept[:, None]
    return replace(own, mask=mask, spans=own.spans * mask[..., None])


def _bits(found: Sequence[StoredSample], mask: Tensor) -> Tensor | None:
    """(B,) bits per character on the mask's device; None where none is stored."""
    bits = torch.tensor([sample.bits_per_char for sample in found])
    return None if bool(bits.isnan().all()) else bits.to(mask.device)
