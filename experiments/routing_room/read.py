"""Read held-out texts with every teacher, and weigh what each foretold of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from align.errors import InputError
from align.text.documents import TextSample
from align.views import OUTPUTS, Teacher
from experiments.assemble.data import Encoder
from fuse.routing_room import RoutingRoom, routing_room, saved
from student.output import common_chunks
from teacher.live_teacher import LiveTeacher
from teacher.own_loss import next_token_nll

SAMPLES = 64
"""Texts of a domain that are read."""
_BATCH = 16

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomByDomain:
    """What weighing some teachers could bring on each domain's texts."""

    names: tuple[str, ...]
    """The M teachers that are compared, in order."""
    domains: Mapping[str, RoutingRoom]
    left_out: Mapping[str, str]
    """Teachers that cannot be, each with the reason."""

    @property
    def gain(self) -> float:
        """Share of the equal mixture's bits that routing within reach can save, of
        the mean over domains."""
        rooms = self.domains.values()
        reachable = sum(room.reachable for room in rooms)
        return saved(reachable, sum(room.equal for room in rooms))

    @property
    def ceiling(self) -> float:
        """Share of them that no weighting can save more than."""
        rooms = self.domains.values()
        best = sum(room.per_stretch for room in rooms)
        return saved(best, sum(room.equal for room in rooms))

    def plain(self) -> dict[str, Any]:
        """For a summary, or other programs."""
        return {
            "teachers": list(self.names),
            "domains": {
                domain: asdict(room)
                | {"teachers": dict(zip(self.names, room.teachers, strict=True))}
                | {"gain": room.gain, "ceiling": room.ceiling}
                for domain, room in self.domains.items()
            },
            "left_out": dict(self.left_out),
            "gain": self.gain,
            "ceiling": self.ceiling,
        }


def room_by_domain(
    teachers: Mapping[str, Teacher],
    samples: Sequence[TextSample],
    progress: Progress = lambda starts: starts,
) -> RoomByDomain:
    """Read texts with every teacher that foretells them.

    Args:
        teachers: by name; those that predict no text are left out.
        samples: held-out texts; the first ``SAMPLES`` of each domain are read.
        progress: wraps the batches of each domain.

    Raises:
        InputError: fewer than two teachers are left, or no domain holds a stretch of
            text that all of them foretell.
    """
    silent = {
        name: why for name, teacher in teachers.items() if (why := _silent(teacher))
    }
    speaking = {n: t for n, t in teachers.items() if isinstance(t, LiveTeacher)}
    speaking = {n: t for n, t in speaking.items() if n not in silent}
    if len(speaking) < 2:
        reasons = "; ".join(f"teacher {name!r}: {why}" for name, why in silent.items())
        raise InputError(
            "what routing could gain is computed from two or more teachers that "
            f"predict text, and there are {len(speaking)}"
            + (f" ({reasons})" if reasons else "")
            + "; add a causal teacher, or ask stored ones live (store.read=false)"
        )
    domains: dict[str, RoutingRoom] = {}
    for domain in dict.fromkeys(sample.domain for sample in samples):
        texts = [sample.text for sample in samples if sample.domain == domain]
        heard, characters = _heard(list(speaking.values()), texts[:SAMPLES], progress)
        if characters:
            domains[domain] = routing_room(heard, characters)
    if not domains:
        raise InputError(
            "no held-out text has a stretch that begins and ends with a whole token of "
            f"each of the teachers {', '.join(speaking)}; give longer texts in "
            "data.eval"
        )
    return RoomByDomain(names=tuple(speaking), domains=domains, left_out=silent)


def _silent(teacher: Teacher) -> str:
    """Why a teacher foretells no text; empty where it does."""
    if OUTPUTS in teacher.lacks:
        return teacher.lacks[OUTPUTS]
    if not isinstance(teacher, LiveTeacher):
        return "it is read from a store, which holds no probabilities"
    return ""


@torch.no_grad()
def _heard(
    teachers: Sequence[LiveTeacher], texts: Sequence[str], progress: Progress
) -> tuple[list[Tensor], int]:
    """Of each text (K, M) nats by stretch, and the characters in all of them."""
    ordered = sorted(texts, key=len)
    readers = [Encoder(teacher.tokenizer, None) for teacher in teachers]
    heard: list[Tensor] = []
    characters = 0
    for start in progress(range(0, len(ordered), _BATCH)):
        some = ordered[start : start + _BATCH]
        batches = [read(some) for read in readers]
        chunks = common_chunks(batches)
        if not len(chunks):
            continue
        nats = []
        for teacher, batch, side in zip(teachers, batches, chunks.sides, strict=True):
            there = batch.to(teacher.capture.device)
            captured = teacher.capture(there.ids, there.mask, layers=(0,), logits=True)
            assert captured.logits is not None
            nll = next_token_nll(captured.logits, there.ids, there.mask)
            nats.append(side.sum(-nll.to(batch.ids.device).double()))
        of_text = torch.bincount(chunks.text, minlength=len(some)).tolist()
        heard.extend(torch.stack(nats, -1).split(of_text))
        characters += int(chunks.characters.sum())
    return heard, characters
