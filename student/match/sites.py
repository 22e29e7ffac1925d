"""Where in the network a student and a teacher are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from align.errors import InputError
from align.sizes import Sizes
from student.objective import (
    EMBEDDINGS,
    HEADS,
    HIDDEN,
    NORMED,
    OUTPUTS,
    RELATIONS,
    RESIDUAL,
    Side,
    Sides,
    StepContext,
    at_rows,
)
from student.places import Places

SiteName = Literal["keys", "values", "hidden", "embeddings", "logits", "attention"]
StateName = Literal["given", "residual", "normed", "both"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """One such place."""

    needs: frozenset[str]
    """What must be captured, see :attr:`student.objective.Objective.needs`."""
    sides: Callable[[StepContext], Iterator[Any]]
    """What is captured there, teacher by teacher: :class:`Sides`, or of attention
    :class:`student.objective.HeadAttention`."""
    width: Callable[[Sizes], int]
    """Of one layer and token there; of attention the number of heads. 0 where nobody
    knows, of a teacher that brings nothing."""
    weight: Callable[[Places], Tensor]
    """(B, T, M), of attention (B, R, M), of logits (B * T, M): what every teacher
    weighs there, before the student has read."""
    rows: bool = False
    """Whether rows of attention are compared, head by head, in place of features."""
    raw: bool = False
    """Whether features come as they are, for the term to standardise."""
    blocks: bool = False
    """Whether next-token vectors are compared, which are never all there at once."""
    layered: bool = True
    """Whether it is there once a layer; else once, as layer 0 of 1."""

    def layers(self, student: Sizes) -> int:
        """L, as many as there are of it in the student."""
        return student.layers if self.layered else 1


def _relations(side: Side) -> Callable[[StepContext], Iterator[Sides]]:
    def sides(ctx: StepContext) -> Iterator[Sides]:
        for relation in ctx.relations:
            yield Sides(
                name=relation.name,
                student=getattr(relation, f"student_{side}"),
                teacher=getattr(relation, f"teacher_{side}"),
                weight=relation.weight,
                sizes=getattr(relation, f"sizes_{side}"),
            )

    return sides


def _compared(places: Places) -> Tensor:
    return places.compared


def _states(*kinds: str, layered: bool = True) -> Site:
    """Some of ``STATES``; of several, the channels of all side by side."""

    def sides(ctx: StepContext) -> Iterator[Sides]:
        every = [ctx.inside.get(kind, ()) for kind in kinds]
        for parts in zip(*every, strict=True):
            yield replace(
                parts[0],
                student=torch.cat([part.student for part in parts], -1),
                teacher=torch.cat([part.teacher for part in parts], -1),
            )

    def width(sizes: Sizes) -> int:
        size = sizes.hidden_size if layered else sizes.embedding_size
        return len(kinds) * size

    return Site(
        needs=frozenset(kinds),
        sides=sides,
        width=width,
        weight=lambda places: places.stated(kinds),
        raw=True,
        layered=layered,
    )


def _same_next(places: Places) -> Tensor:
    """(B * T, M): places at which a teacher of the student's vocabulary predicts the
    same token."""
    weights = {heard.name: heard for heard in places.heard("match") if heard.alike}
    nothing = places.weight.new_zeros(places.batch.ids.numel())
    every = [
        heard.pairing.same_next(heard.weight)
        if (heard := weights.get(reading.name)) is not None
        else nothing
        for reading in places.readings
    ]
    return torch.stack(every, -1) if every else nothing[:, None][:, :0]


def _attended(places: Places) -> Tensor:
    """(B, R, M): queries for which a teacher has a token of its own."""
    rows, counted = places.rows, places.counted
    if rows is None:
        return counted[:, :0]
    known = torch.zeros_like(counted[:, :1].expand(-1, rows.shape[1], -1))
    for m, reading in enumerate(places.readings):
        if reading.heads:
            readable = reading.readable.gather(1, rows) >= 0
            known[..., m] = at_rows(counted[..., m], rows) * readable
    return known


SITES: Mapping[SiteName, Site] = {
    "keys": Site(
        needs=frozenset({RELATIONS}),
        sides=_relations("k"),
        width=lambda sizes: sizes.k_width,
        weight=_compared,
    ),
    "values": Site(
        needs=frozenset({RELATIONS}),
        sides=_relations("v"),
        width=lambda sizes: sizes.v_width,
        weight=_compared,
    ),
    "hidden": _states(HIDDEN),
    "embeddings": _states(EMBEDDINGS, layered=False),
    "logits": Site(
        needs=frozenset({OUTPUTS}),
        sides=lambda ctx: iter(()),
        width=lambda sizes: 0,
        weight=_same_next,
        blocks=True,
        layered=False,
    ),
    "attention": Site(
        needs=frozenset({HEADS}),
        sides=lambda ctx: iter(ctx.heads),
        width=lambda sizes: sizes.query_heads,
        weight=_attended,
        rows=True,
    ),
}
"""By name. Keys are content keys, before rotation. Features are compared standardised,
teacher by teacher, as the calibration sample has them: see :data:`.scales.Scale`."""

HIDDEN_STATES: Mapping[StateName, Site] = {
    "given": SITES["hidden"],
    "residual": _states(RESIDUAL),
    "normed": _states(NORMED),
    "both": _states(RESIDUAL, NORMED),
}
"""Where beside the norm that stands between two layers hidden states are taken."""


def site_of(name: SiteName, state: StateName) -> Site:
    """A site; of hidden states one of them.

    Raises:
        InputError: a state of something else is meant.
    """
    if name == "hidden":
        return HIDDEN_STATES[state]
    if state != "given":
        raise InputError(
            f"state: {state} says which hidden states are compared, and site is "
            f"{name}; leave it out, or compare site: hidden"
        )
    return SITES[name]
