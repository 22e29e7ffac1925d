"""Where in the network a student and a teacher are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from align.sizes import Sizes
from student.objective import HIDDEN, RELATIONS, StepContext
from student.places import Places

SiteName = Literal["keys", "values", "hidden"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sides:
    """One teacher beside the student, on the student's layers and tokens."""

    name: str
    """The teacher's."""
    student: Tensor
    """(L, B, T, C_s) float, with gradient."""
    teacher: Tensor
    """(L, B, T, C_t) float, detached; 0 where nothing is aligned."""
    weight: Tensor
    """(B, T) or (L, B, T) float32 >= 0, detached; 0 where nothing is compared."""


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


def _keys(ctx: StepContext) -> Iterator[Sides]:
    for relation in ctx.relations:
        yield Sides(
            name=relation.name,
            student=relation.student_k,
            teacher=relation.teacher_k,
            weight=relation.weight,
        )


def _values(ctx: StepContext) -> Iterator[Sides]:
    for relation in ctx.relations:
        yield Sides(
            name=relation.name,
            student=relation.student_v,
            teacher=relation.teacher_v,
            weight=relation.weight,
        )


def _hidden(ctx: StepContext) -> Iterator[Sides]:
    for states in ctx.states:
        yield Sides(
            name=states.name,
            student=states.student,
            teacher=states.teacher,
            weight=states.weight,
        )


def _compared(places: Places) -> Tensor:
    return places.compared


def _stated(places: Places) -> Tensor:
    return places.stated


SITES: Mapping[SiteName, Site] = {
    "keys": Site(
        needs=frozenset({RELATIONS}),
        sides=_keys,
        width=lambda sizes: sizes.k_width,
        weight=_compared,
    ),
    "values": Site(
        needs=frozenset({RELATIONS}),
        sides=_values,
        width=lambda sizes: sizes.v_width,
        weight=_compared,
    ),
    "hidden": Site(
        needs=frozenset({HIDDEN}),
        sides=_hidden,
        width=lambda sizes: sizes.hidden_size,
        weight=_stated,
        raw=True,
    ),
}
"""By name. Keys are content keys, before rotation. All are compared standardised,
teacher by teacher and channel by channel, as the calibration sample has them."""
