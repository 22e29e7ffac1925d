"""What selectors leave of the places of a pass, and of its optimiser step."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import add

from align.schedules import Timetable
from fuse.signals import Signals
from student.places import Chosen, Counts, Places, Selected, Share, settled
from student.select.candidates import Candidates, Sum
from student.select.selection import Selection
from student.step.routing import WeighedTeachers
from student.step.survey import Surveyor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepSelection:
    """The selectors of a phase, put to the passes of its steps."""

    selection: Selection
    """All of them."""
    surveyor: Surveyor
    """Says what is left."""
    timetable: Timetable
    """What settings are at a step."""

    def select(
        self, teachers: WeighedTeachers, step: int, share: Share | None
    ) -> Selected:
        """What is selected of a pass; a pass of training is remembered.

        Args:
            teachers: of the pass.
            step: optimiser steps taken in this phase.
            share: what the pass is of its step; None: it is not of training.
        """
        assert teachers.signals is not None or not self.selection.needs
        candidates = Candidates(
            signals=teachers.signals or Signals(teachers=()),
            known=teachers.available & teachers.clear,
            step=step,
            over_processes=list if share is None else share.over_processes,
            timetable=self.timetable,
        )
        selected = self.selection.weigh(candidates, teachers.routing)
        if share is not None:
            self.selection.note(candidates)
        return selected

    def left(self, passes: Sequence[Places], total: Sum) -> Counts:
        """What a selection leaves of a step.

        Args:
            passes: of the step, on this process.
            total: over processes, which must all ask.

        Raises:
            InputError: it has left nothing for many steps.
        """
        counts = [self.surveyor.of_terms(places) for places in passes]
        kept = [p.selected.kept for p in passes]
        names = list(kept[0])
        mine = functools.reduce(add, counts)
        sums = [
            math.fsum(each[name][at] for each in kept if each)
            for name in names
            for at in (0, 1)
        ]
        every = total([*mine.flat(), *sums])
        sums = every[len(every) - len(sums) :]
        pairs = zip(sums[::2], sums[1::2], strict=True)
        self.selection.check(dict(zip(names, pairs, strict=True)))
        return mine.refilled(every)

    def of_pass(
        self, teachers: WeighedTeachers, step: int, share: Share | None
    ) -> tuple[Share | None, Selected]:
        """A pass's share with what is left of it, and what is selected of the pass.

        Where nobody has looked at all passes of the step, this one has to be all.

        Args:
            teachers: of the pass.
            step: optimiser steps taken in this phase.
            share: what the pass is of its step; None: it is not of training.

        Raises:
            RuntimeError: the step has other passes, and nobody has looked at them.
            InputError: nothing was left for many steps.
        """
        if share is None:
            return None, self.select(teachers, step, None)
        chosen = share.chosen or self._chosen(teachers, step, share)
        return replace(share, chosen=chosen), chosen.selected

    def _chosen(self, teachers: WeighedTeachers, step: int, share: Share) -> Chosen:
        selected = self.select(teachers, step, share)
        places = share.places.learned(selected, teachers.routing)
        (places,) = settled([places], share.over_processes)
        counts = self.left([places], share.over_processes)
        if counts.predicted != share.step.predicted:
            raise RuntimeError("a selection has to look at all passes of a step first")
        return Chosen(places, counts)
