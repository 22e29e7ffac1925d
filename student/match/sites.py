"""Where in the network a student and a teacher are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from align.sizes import Sizes
from student.objective import HIDDEN, RELATIONS, Side, Sides, StepContext
from student.places import Places

SiteName = Literal["keys", "values", "hidden"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """One such place."""

    needs: frozenset[str]
    """What must be captured, see :attr:`student.objective.Objective.needs`."""
    sides: Callable[[StepContext], Iterator[Sides]]
    """What is captured there, teacher by teacher."""
    width: Callable[[Sizes], int]
    """Of one layer and token there."""
    weight: Callable[[Places], Tensor]
    """(B, T, M): what every teacher weighs there, before the student has read."""
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
}
"""By name. Keys are content keys, before rotation. All are compared standardised,
teacher by teacher and channel by channel, as the calibration sample has them."""
