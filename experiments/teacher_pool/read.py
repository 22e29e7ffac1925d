"""Read held-out texts once with every teacher, and keep what they are compared by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from align.errors import InputError
from align.text.documents import TextSample
from align.views import OUTPUTS, Teacher
from experiments.assemble.data import Encoder
from student.output import common_chunks
from teacher.live_teacher import LiveTeacher
from teacher.own_loss import next_token_nll

SAMPLES = 64
"""Texts of a domain that are read."""
POINTS = 4096
"""Stretches of a domain whose hidden states are kept; they are compared at the last
token of each."""
_BATCH = 16

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(kw_only=True, slots=True, eq=False)
class Heard:
    """What M teachers said of one domain's texts, on stretches that all spell with
    whole tokens."""

    nats: list[Tensor] = field(default_factory=list)
    """Of each text (K, M) float64, the log-likelihood of its stretches in order."""
    characters: int = 0
    """In all stretches."""
    states: list[list[Tensor]] = field(default_factory=list)
    """By teacher, (P, C) float32 each: last hidden states after a stretch."""
    kv: list[list[Tensor]] = field(default_factory=list)
    """By teacher, (P, C) float32 each: keys beside values of its middle layer there."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """One pass over all domains."""

    teachers: Mapping[str, LiveTeacher]
    """The M that are compared, in order."""
    domains: Mapping[str, Heard]
    seconds: Sequence[float]
    """(M,) that each took to run, in all."""
    characters: int
    """In all texts that they ran on."""
    left_out: Mapping[str, str]
    """Teachers that cannot be compared, each with the reason."""


def read_pool(
    teachers: Mapping[str, Teacher],
    samples: Sequence[TextSample],
    *,
    texts: int = SAMPLES,
    progress: Progress = lambda starts: starts,
) -> Reading:
    """Read texts with every teacher that predicts them.

    Args:
        teachers: by name.
        samples: held-out texts; the first ``texts`` of each domain are read.
        texts: >= 1.
        progress: wraps the batches of each domain.

    Raises:
        InputError: fewer than two teachers predict text, or no domain holds a stretch
            that all of them spell with whole tokens.
    """
    silent = {name: why for name, t in teachers.items() if (why := _silent(t))}
    asked = {n: t for n, t in teachers.items() if isinstance(t, LiveTeacher)}
    asked = {n: t for n, t in asked.items() if n not in silent}
    if len(asked) < 2:
        reasons = "; ".join(f"{name!r}: {why}" for name, why in silent.items())
        raise InputError(
            f"teachers are compared two by two, and {len(asked)} of the config's "
            f"{len(teachers)} predict text live"
            + (f" ({reasons})" if reasons else "")
            + "; add a causal one under teachers"
        )
    seconds, total = [0.0] * len(asked), 0
    domains: dict[str, Heard] = {}
    for domain in dict.fromkeys(sample.domain for sample in samples):
        some = [s.text for s in samples if s.domain == domain][:texts]
        heard = _heard(list(asked.values()), some, progress, seconds)
        total += sum(map(len, some))
        if heard.characters:
            domains[domain] = heard
    if not domains:
        raise InputError(
            "no held-out text has a stretch that begins and ends with a whole token of "
            f"each of the teachers {', '.join(asked)}; give longer texts in data.eval"
        )
    return Reading(
        teachers=asked,
        domains=domains,
        seconds=seconds,
        characters=total,
        left_out=silent,
    )


def _silent(teacher: Teacher) -> str:
    """Why a teacher is not compared; empty where it is."""
    if OUTPUTS in teacher.lacks:
        return teacher.lacks[OUTPUTS]
    if not isinstance(teacher, LiveTeacher):
        return "it does not run here"
    return ""


@torch.no_grad()
def _heard(
    teachers: Sequence[LiveTeacher],
    texts: Sequence[str],
    progress: Progress,
    seconds: list[float],
) -> Heard:
    ordered = sorted(texts, key=len)
    readers = [Encoder(teacher.tokenizer, None) for teacher in teachers]
    heard = Heard(states=[[] for _ in teachers], kv=[[] for _ in teachers])
    points = 0
    for start in progress(range(0, len(ordered), _BATCH)):
        some = ordered[start : start + _BATCH]
        batches = [read(some) for read in readers]
        chunks = common_chunks(batches)
        if not len(chunks):
            continue
        nats, keep = [], max(0, POINTS - points)
        points += len(chunks)
        for m, (teacher, batch, side) in enumerate(
            zip(teachers, batches, chunks.sides, strict=True)
        ):
            there = batch.to(teacher.capture.device)
            began = time.perf_counter()
            captured = teacher.capture(
                there.ids,
                there.mask,
                layers=(teacher.sizes.layers // 2,),
                logits=True,
                hidden=True,
            )
            assert captured.logits is not None and captured.hidden is not None
            nll = next_token_nll(captured.logits, there.ids, there.mask).cpu()
            seconds[m] += time.perf_counter() - began
            nats.append(side.sum(-nll.double()))
            last = side.last[:keep]
            heard.states[m].append(captured.hidden.flatten(0, 1).cpu()[last].float())
            both = torch.cat(captured.kv.flat(), -1)[0].flatten(0, 1)
            heard.kv[m].append(both.cpu()[last].float())
        of_text = torch.bincount(chunks.text, minlength=len(some)).tolist()
        heard.nats.extend(torch.stack(nats, -1).split(of_text))
        heard.characters += int(chunks.characters.sum())
    return heard
