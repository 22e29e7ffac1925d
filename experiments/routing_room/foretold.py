"""Held-out texts, read once with every teacher that predicts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from align.errors import InputError
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.views import OUTPUTS, Teacher
from experiments.assemble.data import Encoder
from student.output import common_chunks
from teacher.live_teacher import LiveTeacher

SAMPLES = 64
"""Texts of a domain that are read."""
_BATCH = 16

Progress = Callable[[Iterable[int]], Iterable[int]]
Ask = Callable[[int, TokenBatch, Tensor], Tensor]
"""Runs a teacher, by its number, on its tokens (B, T); is told the last token of every
stretch, (K,) int64 into B * T. Gives (B, T) what each of its tokens cost it, nats."""


@dataclass(kw_only=True, slots=True, eq=False)
class Foretold:
    """What M teachers foretold of texts, by stretches that all spell with whole
    tokens."""

    nats: list[Tensor] = field(default_factory=list)
    """Of each text (K, M) float64, the log-likelihood of its stretches in order."""
    characters: int = 0
    """In all stretches."""


def parted(
    teachers: Mapping[str, Teacher],
) -> tuple[dict[str, LiveTeacher], dict[str, str]]:
    """Those that predict text on this machine, and why the others do not."""
    asked: dict[str, LiveTeacher] = {}
    silent: dict[str, str] = {}
    for name, teacher in teachers.items():
        if OUTPUTS in teacher.lacks:
            silent[name] = teacher.lacks[OUTPUTS]
        elif isinstance(teacher, LiveTeacher):
            asked[name] = teacher
        else:
            silent[name] = "it does not run here"
    return asked, silent


def texts_by_domain(
    samples: Sequence[TextSample], texts: int = SAMPLES
) -> dict[str, list[str]]:
    """The first texts of each domain."""
    every: dict[str, list[str]] = {}
    for sample in samples:
        every.setdefault(sample.domain, []).append(sample.text)
    return {domain: some[:texts] for domain, some in every.items()}


@torch.no_grad()
def foretold(
    teachers: Sequence[LiveTeacher],
    texts: Sequence[str],
    ask: Ask,
    progress: Progress = lambda starts: starts,
) -> Foretold:
    """Read texts with every teacher.

    Args:
        teachers: M.
        texts: of one domain.
        ask: asks one about a batch.
        progress: wraps the batches.
    """
    ordered = sorted(texts, key=len)
    readers = [Encoder.of_teacher(teacher) for teacher in teachers]
    out = Foretold()
    for start in progress(range(0, len(ordered), _BATCH)):
        some = ordered[start : start + _BATCH]
        batches = [read(some) for read in readers]
        chunks = common_chunks(batches)
        if not len(chunks):
            continue
        nats = []
        for m, side in enumerate(chunks.sides):
            there = batches[m].to(teachers[m].capture.device)
            nll = ask(m, there, side.last).to(batches[m].ids.device)
            nats.append(side.sum(-nll.double()))
        of_text = torch.bincount(chunks.text, minlength=len(some)).tolist()
        out.nats.extend(torch.stack(nats, -1).split(of_text))
        out.characters += int(chunks.characters.sum())
    return out


def nothing_common(names: Iterable[str]) -> InputError:
    """The error of texts that no teachers can be compared on."""
    return InputError(
        "no held-out text has a stretch that begins and ends with a whole token of "
        f"each of the teachers {', '.join(names)}; give longer texts in data.eval"
    )
