"""Where in the network a student and a teacher are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from align.sizes import Sizes
from student.objective import (
    HEADS,
    HIDDEN,
    RELATIONS,
    Side,
    Sides,
    StepContext,
    at_rows,
)
from student.places import Places

SiteName = Literal["keys", "values", "hidden", "attention"]


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
    """(B, T, M) or (B, R, M): what every teacher weighs there, before the student has
    read."""
    rows: bool = False
    """Whether rows of attention are compared, head by head, in place of features."""
    raw: bool = False
    """Whether features come as they are, for the term to standardise."""


def _relations(side: Side) -> Callable[[StepContext], Iterator[Sides]]:
    def sides(ctx: StepContext) -> Iterator[Sides]:
        for relation in ctx.relations:
            yield Sides(
                name=relation.name,
                student=getattr(relation, f"student_{side}"),
                teacher=getattr(relation, f"teacher_{side}"),
                weight=relation.weight,
            )

    return sides


def _compared(places: Places) -> Tensor:
    return places.compared


def _stated(places: Places) -> Tensor:
    return places.stated


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
    "hidden": Site(
        needs=frozenset({HIDDEN}),
        sides=lambda ctx: iter(ctx.states),
        width=lambda sizes: sizes.hidden_size,
        weight=_stated,
        raw=True,
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
teacher by teacher and channel by channel, as the calibration sample has them."""
