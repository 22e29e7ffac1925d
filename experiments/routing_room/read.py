"""Read held-out texts with every teacher, and weigh what each foretold of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from align.errors import InputError
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.views import Teacher
from experiments.routing_room.foretold import (
    Progress,
    foretold,
    nothing_common,
    parted,
    texts_by_domain,
)
from fuse.routing_room import RoutingRoom, routing_room, saved
from teacher.own_loss import next_token_nll


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
    speaking, silent = parted(teachers)
    if len(speaking) < 2:
        reasons = "; ".join(f"teacher {name!r}: {why}" for name, why in silent.items())
        raise InputError(
            "what routing could gain is computed from two or more teachers that "
            f"predict text, and there are {len(speaking)}"
            + (f" ({reasons})" if reasons else "")
            + "; add a causal teacher, or ask stored ones live (store.read=false)"
        )
    asked, domains = list(speaking.values()), dict[str, RoutingRoom]()

    def ask(m: int, batch: TokenBatch, last: Tensor) -> Tensor:
        captured = asked[m].capture(batch.ids, batch.mask, layers=(0,), logits=True)
        assert captured.logits is not None
        return next_token_nll(captured.logits, batch.ids, batch.mask)

    for domain, texts in texts_by_domain(samples).items():
        said = foretold(asked, texts, ask, progress)
        if said.characters:
            domains[domain] = routing_room(said.nats, said.characters)
    if not domains:
        raise nothing_common(speaking)
    return RoomByDomain(names=tuple(speaking), domains=domains, left_out=silent)
