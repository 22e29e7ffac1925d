"""What each forward pass is of its optimiser step, after selectors have looked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.views import TeacherView
from student.places import Chosen, Counts, Places, Share, settled
from student.select.candidates import Sum


class Made(Protocol):
    """See :class:`student.loop.batches.TrainBatch`."""

    @property
    def samples(self) -> Sequence[TextSample]:
        """This process's texts."""

    @property
    def numbers(self) -> Sequence[int]:
        """Of these in the run."""

    @property
    def batch(self) -> TokenBatch:
        """The student's tokens."""

    @property
    def views(self) -> Sequence[TeacherView]:
        """One per teacher."""

    @property
    def places(self) -> Places:
        """Where it is compared."""

    @property
    def counts(self) -> Counts:
        """What its places weigh."""

    @property
    def step(self) -> Counts:
        """What those of all passes of this process weigh in its optimiser step."""

    @property
    def problem(self) -> Exception | None:
        """A teacher that gave nothing to learn from."""


Pass = TypeVar("Pass", bound=Made)


def shared(
    made: Iterator[Pass],
    distiller: Any,
    step: int,
    *,
    passes: int,
    total: Sum,
    anywhere: Callable[[bool], bool],
) -> Iterator[tuple[Pass, Share]]:
    """The passes of one optimiser step, each with what it is of it.

    Where places are selected, what a step weighs is known only after the student has
    read all of it. Of a step that is one pass, that is worked out in the pass; of any
    other, all its passes are made and looked at before the first is learned from.

    Args:
        made: the passes of the step, one after another.
        distiller: the student with its teaching.
        step: optimiser steps taken in this phase.
        passes: of one step.
        total: over processes, which must all ask.
        anywhere: whether something is so on any process, which must all ask.
    """
    counts: Counts | None = None
    selects = distiller.selection is not None and passes > 1
    waiting: list[tuple[Pass, Share]] = []
    for each in made:
        if counts is None:  # the same in every batch of the step
            counts = each.step.refilled(total(each.step.flat()))
        share = Share(each.places, each.counts, counts, total)
        if selects:
            waiting.append((each, share))
        else:
            yield each, share
    if not selects:
        return
    places = [
        share.places
        if anywhere(each.problem is not None)
        else distiller.choose(
            each.batch,
            each.views,
            step=step,
            share=share,
            domains=[sample.domain for sample in each.samples],
            numbers=each.numbers,
        )
        for each, share in waiting
    ]
    places = settled(places, total)
    left = distiller.left(places, total)
    while waiting:  # each is let go as soon as it has been learned from
        each, share = waiting.pop(0)
        yield each, replace(share, chosen=Chosen(places.pop(0), left))
