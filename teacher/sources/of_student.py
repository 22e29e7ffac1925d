"""Teachers that come from the student: as it began, as earlier phases left it, as the
average of its own steps, as it was some steps ago."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from align.errors import InputError
from align.support.field_types import NotNegative
from align.views import Teacher
from teacher.sources.base import Opening, PhaseStart, TeacherSource

LAST = "-1"
"""Of ``phase:``, the phase before."""
WHEN = "asked in the step that learns from it, before that step's update"
"""When a teacher that moves is asked, for the log."""


class OfStudent(TeacherSource):
    """What all have in common: the student's make, and a copy that stands for it
    before any phase begins."""

    of_student = True

    def open(self, opening: Opening) -> Teacher:
        """The student as the run begins, until a phase does."""
        return opening.student()


class StudentStart(OfStudent):
    """``student:start``: the student as the run begins, frozen."""

    example = "start"

    def __init__(self, rest: str) -> None:
        """Take the one word there is.

        Raises:
            InputError: it is another.
        """
        super().__init__(rest)
        if rest != "start":
            raise InputError(
                f"'student:{rest}' names no student; student:start is the one that the "
                "run begins with, phase:NAME one that an earlier phase left, ema the "
                "average of its own steps"
            )

    @property
    def says(self) -> str:
        """What it is."""
        return "the student as the run begins, frozen"


class EarlierPhase(OfStudent):
    """``phase:NAME`` or ``phase:-1``: the student that an earlier phase of the arm
    left, frozen; -1 is the last one that was not rolled back."""

    example = LAST

    def __init__(self, rest: str) -> None:
        """Take a phase's name, or -1.

        Raises:
            InputError: neither.
        """
        super().__init__(rest)
        if rest != LAST and not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", rest):
            raise InputError(
                f"'phase:{rest}' names no phase; give phase:NAME with the name of an "
                "earlier phase, or phase:-1 for the one before"
            )

    @property
    def says(self) -> str:
        """What it is."""
        which = "the phase before" if self.rest == LAST else f"phase {self.rest!r}"
        return f"the student that {which} left, frozen"

    def absent(self, earlier: Sequence[str]) -> str:
        """Why it cannot teach a phase before which these ran."""
        if self.rest == LAST:
            return "" if earlier else "no phase runs before it"
        return "" if self.rest in earlier else f"{self.rest!r} does not run before it"

    def reads(self, start: PhaseStart) -> Path | None:
        """Folder of that student; None where every phase before was rolled back."""
        if self.rest != LAST:
            return start.earlier[self.rest]
        return start.earlier[start.kept[-1]] if start.kept else None

    def begin(self, opening: Opening, start: PhaseStart) -> Teacher:
        """Load that student."""
        return opening.student(self.reads(start))


class Average(OfStudent):
    """``ema``: the exponential moving average of the student's weights over the steps
    of the phase, which it begins with the student's own.

    Equal to ``torch.optim.swa_utils.AveragedModel`` with ``get_ema_multi_avg_fn``.
    """

    example = ""
    bare = True
    moves = True

    def __init__(
        self,
        rest: str,
        *,
        decay: Annotated[float, Interval(ge=0, lt=1)] = 0.99,
        tau: NotNegative | None = None,
    ) -> None:
        """Take how long it remembers.

        Args:
            rest: nothing.
            decay: what is kept at each step, in [0, 1): 0.99 averages over about 100.
            tau: in place of it, decay = 1 - 1 / (1 + tau B / N) of B texts a step
                among N that are learned from.

        Raises:
            InputError: anything stands behind the prefix.
        """
        super().__init__(rest)
        if rest:
            raise InputError(
                f"'ema:{rest}': ema stands alone; options.decay={rest} says how much "
                "of it is kept at each step"
            )
        self.decay, self.tau = decay, tau

    @property
    def says(self) -> str:
        """What it is and when it is asked."""
        kept = f"decay {self.decay}" if self.tau is None else f"tau {self.tau}"
        return f"the average of the student's weights over its steps ({kept}), {WHEN}"

    def decay_of(self, start: PhaseStart) -> float:
        """What is kept at each step of a phase."""
        if self.tau is None:
            return self.decay
        return 1 - 1 / (1 + self.tau * start.texts_per_step / start.texts)

    def begin(self, opening: Opening, start: PhaseStart) -> Teacher:
        """The student that the phase starts from."""
        self.decay = self.decay_of(start)
        return opening.student(start.begins, seed=start.drawn)

    @torch.no_grad()
    def after_step(self, teacher: Teacher, student: nn.Module, step: int) -> None:
        """Come nearer to the student."""
        pairs = _pairs(teacher, student)
        average = get_ema_multi_avg_fn(self.decay)
        average([a for a, _ in pairs], [b.to(a.dtype) for a, b in pairs], step)


class Lagging(OfStudent):
    """``checkpoint:-N``: the student as it was after the last whole N steps of the
    phase, at first as it begins."""

    example = "-5"
    moves = True

    def __init__(self, rest: str) -> None:
        """Take -N.

        Raises:
            InputError: it is no negative number.
        """
        super().__init__(rest)
        if not re.fullmatch(r"-[1-9][0-9]*", rest):
            raise InputError(
                f"'checkpoint:{rest}' is none; give checkpoint:-N, such as "
                "checkpoint:-100, for a copy of the student that is made anew every "
                "100 steps"
            )
        self.every = -int(rest)

    @property
    def says(self) -> str:
        """What it is and when it is asked."""
        return f"the student as it was, copied every {self.every} steps, {WHEN}"

    def begin(self, opening: Opening, start: PhaseStart) -> Teacher:
        """The student that the phase starts from."""
        return opening.student(start.begins, seed=start.drawn)

    @torch.no_grad()
    def after_step(self, teacher: Teacher, student: nn.Module, step: int) -> None:
        """Become the student, every so many steps."""
        if step % self.every == 0:
            for kept, new in _pairs(teacher, student):
                kept.copy_(new)


def _pairs(teacher: Any, student: nn.Module) -> list[tuple[Any, Any]]:
    """The weights of both, tensor by tensor."""
    return list(
        zip(teacher.loaded.model.parameters(), student.parameters(), strict=True)
    )
