"""What a shard may hold: teachers as they are, or brought towards the student."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from align.text.documents import TextSample
from align.time_align import Alignment
from align.tokens.batch import TokenBatch
from align.views import NonFiniteTeacherError, TeacherView
from fuse.fuse_kv import fuse_with_weights
from fuse.weigher import FixedWeigher
from student.bridges.adapter import AdapterBridge
from teacher.extract_teacher_kv import TeacherKVExtractor
from teacher.panel import TeacherPanel
from teacher.store.packing import StoredSample
from teacher.store.reader import all_origins

Made = StoredSample | str
"""A sample, or why there is none."""


class Form(Protocol):
    """Turns texts into what is stored of them."""

    def __call__(self, samples: Sequence[TextSample]) -> list[Made]:
        """One per text, in order."""


class RawForm:
    """The teacher's own tokens, heads and sizes; any run can use it."""

    def __init__(
        self,
        extractor: TeacherKVExtractor,
        own_loss: bool,
        autocast: torch.dtype | None,
        top_k: int = 0,
    ) -> None:
        """Hold the teacher; arguments as :meth:`TeacherKVExtractor.extract`'s."""
        self._extractor, self._own_loss = extractor, own_loss
        self._autocast, self._top_k = autocast, top_k

    def __call__(self, samples: Sequence[TextSample]) -> list[Made]:
        """Run the teacher; see :class:`Form`."""
        got = self._extractor.extract(
            [sample.text for sample in samples],
            own_loss=self._own_loss,
            top_k=self._top_k,
            autocast=self._autocast,
        )
        out: list[Made] = []
        for extracted in got:
            if extracted.problem is not None:
                out.append(extracted.problem)
                continue
            k, v = extracted.kv.flat()
            origin = all_origins(extracted.kv.num_tokens)
            bits, named = extracted.bits_per_char, extracted.named
            out.append(StoredSample(k[:, 0], v[:, 0], origin, bits, named=named))
        return out


class StudentTokensForm:
    """On the student's tokens: aligned, adapted or fused."""

    def __init__(
        self,
        encode: Callable[[list[str]], TokenBatch],
        panel: TeacherPanel,
        batch_size: int,
        bridge: AdapterBridge | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Choose how far the teachers come.

        Args:
            encode: the student's tokenizer.
            panel: one teacher; several with ``weights``.
            batch_size: texts per forward pass.
            bridge: calibrated; None keeps the teacher's layers and sizes.
            weights: one share per teacher of the panel: all become one.
        """
        self._encode, self._panel, self._batch_size = encode, panel, batch_size
        self._bridge = bridge
        self._weigher = None if weights is None else FixedWeigher(weights)

    def __call__(self, samples: Sequence[TextSample]) -> list[Made]:
        """Run the teachers; see :class:`Form`."""
        # As in the extractor: texts of like length share a batch.
        order = sorted(range(len(samples)), key=lambda i: -len(samples[i].text))
        made_samples: dict[int, Made] = {}
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            made = self._batch([samples[i].text for i in chosen])
            made_samples.update(zip(chosen, made, strict=True))
        return [made_samples[index] for index in range(len(samples))]

    def _batch(self, texts: list[str]) -> Iterator[Made]:
        batch = self._encode(texts)
        try:
            views = self._panel(batch)
        except NonFiniteTeacherError as error:
            if len(texts) == 1:
                yield str(error)
                return
            for text in texts:  # the others are sound
                yield from self._batch([text])
            return
        with torch.no_grad():
            k, v = self._carried(batch, views)
        origin = torch.stack([origins(view.alignment) for view in views])
        origin = torch.where(origin == 0, 256, origin).amin(0) % 256  # (B, T)
        bits = views[0].bits_per_char if len(views) == 1 else None
        for row, length in enumerate(batch.mask.sum(1).tolist()):
            yield StoredSample(
                k[:, row, :length].cpu(),
                v[:, row, :length].cpu(),
                origin[row, :length].to(torch.uint8).cpu(),
                math.nan if bits is None else float(bits[row]),
            )

    def _carried(
        self, batch: TokenBatch, views: list[TeacherView]
    ) -> tuple[Tensor, Tensor]:
        """(L, B, T_s, C) keys and values on the student's tokens."""
        if self._bridge is None:
            (view,) = views
            k, v = view.met.flat()
            return view.alignment.apply(k), view.alignment.apply(v)
        adapted = self._bridge.in_student_space(views)
        if self._weigher is None:
            return adapted[0]
        covered = torch.stack([view.alignment.covered for view in views], -1)
        available = covered & batch.has_text[..., None]
        weights = self._weigher(batch.ids, batch.mask, available)
        return (
            fuse_with_weights([k for k, _ in adapted], weights),
            fuse_with_weights([v for _, v in adapted], weights),
        )


def origins(alignment: Alignment) -> Tensor:
    """(B, T_s) int64: 0, or 1 + the first teacher token of each row, at most 255."""
    batch, student, teacher = alignment.shape
    first = alignment.cols.new_full((batch * student,), teacher)
    column = alignment.cols % max(teacher, 1)
    first = first.scatter_reduce(0, alignment.rows, column, "amin")
    number = (first + 1).clamp_max(255)
    return torch.where(first == teacher, 0, number).view(batch, student)
