"""Read held-out texts once with every teacher, and keep what they are compared by."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from align.errors import InputError
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.views import Teacher
from experiments.routing_room.foretold import (
    SAMPLES,
    Foretold,
    Progress,
    foretold,
    nothing_common,
    parted,
    texts_by_domain,
)
from teacher.live_teacher import LiveTeacher
from teacher.own_loss import next_token_nll

POINTS = 4096
"""Stretches of a domain whose hidden states are kept; they are compared at the last
token of each."""


@dataclass(kw_only=True, slots=True, eq=False)
class Heard(Foretold):
    """The same of one domain's texts, with what teachers were like inside."""

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
    asked, silent = parted(teachers)
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
    for domain, some in texts_by_domain(samples, texts).items():
        heard = _heard(list(asked.values()), some, progress, seconds)
        total += sum(map(len, some))
        if heard.characters:
            domains[domain] = heard
    if not domains:
        raise nothing_common(asked)
    return Reading(
        teachers=asked,
        domains=domains,
        seconds=seconds,
        characters=total,
        left_out=silent,
    )


def _heard(
    teachers: Sequence[LiveTeacher],
    texts: Sequence[str],
    progress: Progress,
    seconds: list[float],
) -> Heard:
    states: list[list[Tensor]] = [[] for _ in teachers]
    kv: list[list[Tensor]] = [[] for _ in teachers]

    def ask(m: int, batch: TokenBatch, last: Tensor) -> Tensor:
        teacher, began = teachers[m], time.perf_counter()
        captured = teacher.capture(
            batch.ids,
            batch.mask,
            layers=(teacher.sizes.layers // 2,),
            logits=True,
            hidden=True,
        )
        assert captured.logits is not None and captured.hidden is not None
        nll = next_token_nll(captured.logits, batch.ids, batch.mask).cpu()
        seconds[m] += time.perf_counter() - began
        last = last[: max(0, POINTS - sum(map(len, states[m])))]
        states[m].append(captured.hidden.flatten(0, 1).cpu()[last].float())
        both = torch.cat(captured.kv.flat(), -1)[0].flatten(0, 1)
        kv[m].append(both.cpu()[last].float())
        return nll

    said = foretold(teachers, texts, ask, progress)
    return Heard(nats=said.nats, characters=said.characters, states=states, kv=kv)
