"""How often a student says what a teacher says, and how far what they say is apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from align.tokens.answered import counted_text
from student.evaluators.base import (
    BATCH,
    EvalContext,
    Measured,
    Metric,
    Subject,
    need_text,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Same likeliest next token, and KL(teacher ‖ student), where both have one
    vocabulary.

    Every token that holds text counts once, the first of a text left out, and of a
    prompt with its completion all of the prompt. Rows by which
    one of two tables of outputs is longer are left out on both sides.

    Source:
        Stanton et al., "Does Knowledge Distillation Really Work?", NeurIPS 2021:
        top-1 agreement and predictive KL, here in bits.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "top1_agreement": Metric("%", "higher"),
        "kl_from_teacher": Metric("bits/token", "lower"),
    }
    of_teachers: ClassVar[bool] = False

    def __call__(self, ctx: EvalContext) -> Measured:
        """By teacher and domain, as ``teacher/domain``."""
        need_text(ctx, "agreement")
        values: dict[str, dict[str, float]] = {name: {} for name in self.metrics}
        notes, foreign = [], []
        others = [t for t in ctx.teachers.values() if t.name != ctx.subject.name]
        if not ctx.teachers:
            notes.append("agreement: there is no teacher to agree with")
        for teacher in others:
            if not one_vocabulary(ctx.subject, teacher):
                foreign.append(teacher.name)
                continue
            for domain, (same, apart, tokens) in _compared(ctx, teacher).items():
                if tokens:
                    part = f"{teacher.name}/{domain}"
                    values["top1_agreement"][part] = 100 * same / tokens
                    values["kl_from_teacher"][part] = apart / tokens
        if foreign:
            notes.append(
                f"{ctx.subject.name}: no agreement of next tokens with "
                f"{', '.join(foreign)}, whose vocabularies differ"
            )
        return Measured({n: parts for n, parts in values.items() if parts}, notes)


def one_vocabulary(first: Subject, second: Subject) -> bool:
    """Whether two models mean the same by every id that both have."""
    return bool(first.tokenizer.get_vocab() == second.tokenizer.get_vocab())


@torch.no_grad()
def _compared(ctx: EvalContext, teacher: Subject) -> dict[str, Sequence[float]]:
    """Tokens on which both agree, bits apart, and tokens, by domain."""
    subject = ctx.subject
    ordered = sorted(ctx.samples, key=lambda sample: len(sample.text))
    starts = range(0, len(ordered), BATCH)
    sums: dict[str, Tensor] = {
        domain: torch.zeros(3).double() for domain in ctx.domains
    }
    title = f"{subject.name} beside {teacher.name}"
    for start in ctx.progress(starts, len(starts), title):
        samples = ordered[start : start + BATCH]
        batch = subject.encode([sample.text for sample in samples])
        sides = []
        for model in (teacher, subject):
            said = model.capture(batch.ids, batch.mask, layers=(0,), logits=True).logits
            assert said is not None
            sides.append(said)
        counted = counted_text(batch.texts, batch.spans, batch.has_text)
        for row, sample in enumerate(samples):
            pair = [side[row, :-1][counted[row]] for side in sides]
            sums[sample.domain] += apart(*pair).cpu()
    return {domain: total.tolist() for domain, total in sums.items()}


def apart(teacher: Tensor, student: Tensor) -> Tensor:
    """(N, V), (N, V') logits -> (3,) float64: agreeing tokens, bits of KL, tokens."""
    rows = min(teacher.shape[-1], student.shape[-1])
    p, q = (F.log_softmax(x[:, :rows].float(), -1) for x in (teacher, student))
    same = (p.argmax(-1) == q.argmax(-1)).sum()
    nats = (p.exp() * (p - q)).sum(-1).double().sum()
    count = torch.tensor(float(len(p)), dtype=torch.float64, device=p.device)
    return torch.stack((same.double(), nats / math.log(2), count))
