"""Measure texts by a student and its teachers: how hard each one is.

All numbers are per character of the text, so that tokenizers do not matter. Texts lie
in batches by length, and which share one depends on the texts alone: the same texts
get the same numbers, bit for bit, however many processes read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from align.errors import InputError
from align.text.documents import TextSample
from align.tokenizer_align import CausalCharIoUAligner
from align.tokens.batch import TokenBatch
from align.views import LinearHead, Teacher, TeacherView
from experiments.scoring.per_text import divergence, entropy, spread
from student.curriculum.scores import BY_TEACHER, OF_STUDENT, OF_TEACHERS
from student.evaluate import Encode, bits_and_chars
from teacher.capture.kv_capture import KVCapture
from teacher.panel import TeacherPanel

TOGETHER = 16
"""Texts of a forward pass."""

Columns = Mapping[str, Tensor]
_WHO_CAN = {
    "teacher_bits": "a teacher that predicts text",
    "teacher_entropy": "a teacher that predicts text and is asked live, not from a "
    "store or a server",
    "divergence": "a teacher of the student's vocabulary that is asked live",
    "disagreement": "two teachers that predict text",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scorer:
    """Measures some of ``student.curriculum.COLUMNS`` on texts."""

    encode: Encode
    """The student's tokenizer."""
    student: KVCapture
    """As it stands; it may train, and is read in evaluation mode."""
    vocabulary: str
    """Of the student, see :func:`teacher.output_head.vocabulary_digest`."""
    teachers: Mapping[str, Teacher]
    """By name; those that predict no text know nothing."""
    needs: frozenset[str]
    """Columns that are measured beside ``length``."""
    autocast: torch.dtype | None = None
    """Of the teachers' matrix products; None for their own."""

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Columns:
        """Columns of B texts, on the processor: (B,) or (B, M) float64.

        Raises:
            NonFiniteTeacherError: what a teacher gives is not finite.
        """
        batch = self.encode(texts).to(self.student.device)
        columns: dict[str, Tensor] = {"length": batch.mask.sum(1)}
        logits = None
        if self.needs & OF_STUDENT:
            logits = self._logits(batch)
            bits, chars = bits_and_chars(logits, batch)
            known = torch.where(chars > 0, chars, math.nan)
            columns |= {"student_bits": bits / known}
            columns |= {"student_entropy": entropy(logits, batch)}
        views = self._views(batch)
        if self.needs & BY_TEACHER:
            every = [self._of(views.get(name), batch, logits) for name in self.teachers]
            unknown = torch.full((len(texts),), math.nan, dtype=torch.float64)
            for name in sorted(BY_TEACHER):
                rows = [of.get(name, unknown).double().cpu() for of in every]
                columns[name] = torch.stack(rows, 1)
        if "disagreement" in self.needs:
            heard = [view.foretold for view in views.values() if view.foretold]
            columns["disagreement"] = spread(heard, len(texts))
        wanted = self.needs | {"length"}
        return {n: x.double().cpu() for n, x in columns.items() if n in wanted}

    def _logits(self, batch: TokenBatch) -> Tensor:
        model = self.student.model
        training = model.training
        model.eval()
        captured = self.student(batch.ids, batch.mask, layers=(0,), logits=True)
        model.train(training)
        assert captured.logits is not None
        return captured.logits

    def _views(self, batch: TokenBatch) -> dict[str, TeacherView]:
        """What those say that predict text, by name."""
        if not self.needs & OF_TEACHERS:
            return {}
        outputs = self.needs & {"teacher_entropy", "divergence"}
        align = CausalCharIoUAligner()
        panel = TeacherPanel(
            [teacher for teacher in self.teachers.values() if teacher.predicts],
            align,
            align,
            layers={},
            kv=(),
            outputs=[n for n, t in self.teachers.items() if outputs and has_head(t)],
            own_loss="teacher_bits" in self.needs,
            foretold="disagreement" in self.needs,
            autocast=self.autocast,
        )
        return {view.name: view for view in panel(batch)}

    def _of(
        self, view: TeacherView | None, batch: TokenBatch, logits: Tensor | None
    ) -> dict[str, Tensor]:
        """What one teacher says, by column, (B,) each."""
        columns: dict[str, Tensor] = {}
        if view is None:
            return columns
        if view.bits_per_char is not None:
            bits = view.bits_per_char
            columns["teacher_bits"] = bits.masked_fill(~bits.isfinite(), math.nan)
        output = view.output
        if output is None:
            return columns
        head, tokens = output.matrix, output.tokens.to(output.hidden.device)
        hidden = output.hidden.to(head.weight.dtype)
        said = F.linear(hidden, head.weight, head.bias).to(tokens.ids.device)
        columns["teacher_entropy"] = entropy(said, tokens)
        if logits is not None and output.vocabulary == self.vocabulary:
            columns["divergence"] = divergence(logits, said, batch, tokens)
        return columns


def has_head(teacher: Teacher) -> bool:
    """Whether its whole distribution of what comes is at hand."""
    try:
        return teacher.predicts and isinstance(teacher.head, LinearHead)
    except InputError:
        return False


def check_known(
    needs: frozenset[str], teachers: Mapping[str, Teacher], vocabulary: str, place: str
) -> None:
    """See, before anything is read, that somebody can measure what is needed.

    Args:
        needs: columns.
        teachers: who would be asked, by name.
        vocabulary: the student's.
        place: where it is asked for.

    Raises:
        InputError: nobody can; names the column and says who could.
    """
    speaking = {n: t for n, t in teachers.items() if t.predicts}
    whole = [t for t in speaking.values() if has_head(t)]
    able = {
        "teacher_bits": bool(speaking),
        "teacher_entropy": bool(whole),
        "divergence": any(t.vocabulary == vocabulary for t in whole),
        "disagreement": len(speaking) > 1,
    }
    missing = sorted(name for name in needs if not able.get(name, True))
    if missing:
        raise InputError(
            f"{place}: nobody can measure {missing[0]}, which takes "
            f"{_WHO_CAN[missing[0]]}; the teachers are "
            f"{', '.join(teachers) or 'none'}. Choose another difficulty, such as "
            "length or student_bits, or add a teacher"
        )


def batches_of(samples: Sequence[TextSample]) -> list[list[int]]:
    """Which samples are read together, by their numbers: those of like length."""
    order = sorted(range(len(samples)), key=lambda i: (len(samples[i].text), i))
    return [order[at : at + TOGETHER] for at in range(0, len(order), TOGETHER)]


def joined(parts: Iterable[tuple[Sequence[int], Columns]], count: int) -> Columns:
    """The columns of all samples in their order.

    Args:
        parts: numbers of some samples, with their columns.
        count: of all samples, each in one part.
    """
    whole: dict[str, Tensor] = {}
    for numbers, columns in parts:
        for name, column in columns.items():
            if name not in whole:
                shape = (count, *column.shape[1:])
                whole[name] = column.new_full(shape, math.nan)
            whole[name][torch.tensor(numbers)] = column
    return whole
