"""Teachers that come from the student: as it began, as earlier phases left it, as the
average of its own steps, as it was some steps ago."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from align.errors import InputError
from align.support.field_types import NotNegative
from align.support.matrices import plain_parameters
from align.views import Teacher
from teacher.sources.base import Opening, PhaseStart, TeacherSource
from teacher.sources.combined import GIVES, CombinedTeacher

LAST = "-1"
"""Of ``phase:``, the phase before."""
ALL = "*"
"""Of ``phase:``, all that ran before and were not rolled back."""
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


Weights = Literal["equal", "performance"]
"""Of several earlier students' logits."""


class EarlierPhase(OfStudent):
    """``phase:NAME`` or ``phase:-1``: the student that an earlier phase of the arm
    left, frozen; -1 is the last one that was not rolled back. ``phase:*``: all of these
    together.
    """

    example = LAST

    def __init__(
        self, rest: str, *, weights: Weights = "equal", residual_of: str = ""
    ) -> None:
        """Take a phase's name, -1, or all.

        Args:
            rest: which.
            weights: of ``phase:*``, how much each one's logits count: ``equal``, or by
                ``performance``, in proportion to 1 / bits per character on the gate's
                text, or on held-out text without one.
            residual_of: a model of the student's vocabulary: what teaches are its
                logits less those of the earlier students.

        Raises:
            InputError: none of them, or weights where there is nothing to weigh.
        """
        super().__init__(rest)
        if rest not in (LAST, ALL) and not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", rest):
            raise InputError(
                f"'phase:{rest}' names no phase; give phase:NAME with the name of an "
                "earlier phase, phase:-1 for the one before or phase:* for all of them"
            )
        if weights != "equal" and (rest != ALL or residual_of):
            raise InputError(
                f"options.weights={weights} weighs the students of phase:* against "
                "each other; leave it out beside one student, or residual_of"
            )
        self._weights, self._residual_of = weights, residual_of
        if self._combined:
            self.gives = GIVES

    @property
    def _combined(self) -> bool:
        return self.rest == ALL or bool(self._residual_of)

    @property
    def says(self) -> str:
        """What it is."""
        which = {
            LAST: "the student that the phase before left",
            ALL: "the students that all phases before left",
        }.get(self.rest, f"the student that phase {self.rest!r} left")
        if self._residual_of:
            return f"what {self._residual_of} says less {which}, frozen"
        by = ", weighed by performance" if self._weights == "performance" else ""
        return f"{which}, frozen{by}"

    @property
    def files(self) -> str | None:
        """The model of which the residual is."""
        return self._residual_of or None

    def open(self, opening: Opening) -> Teacher:
        """The student as the run begins, until a phase does; with ``residual_of`` what
        that model says beside it.

        Raises:
            InputError: the model's vocabulary is not the student's.
        """
        if not self._combined:
            return super().open(opening)
        if self._residual_of:  # now: a phase that meets it may be hours away
            members = [opening.load(self._residual_of), opening.student()]
            return _sum(opening.name, members, [1.0, -1.0])
        return _sum(opening.name, [opening.student()], [1.0])

    def absent(self, earlier: Sequence[str]) -> str:
        """Why it cannot teach a phase before which these ran."""
        if self.rest in (LAST, ALL):
            first = "" if self._residual_of else "no phase runs before it"
            return "" if earlier else first
        return "" if self.rest in earlier else f"{self.rest!r} does not run before it"

    def reads(self, start: PhaseStart) -> Sequence[Path]:
        """Folders of these students; none where every phase before was rolled back."""
        if self.rest == ALL:
            return [start.earlier[name] for name in start.kept]
        if self.rest != LAST:
            return [start.earlier[self.rest]]
        return [start.earlier[start.kept[-1]]] if start.kept else []

    def begin(self, opening: Opening, start: PhaseStart) -> Teacher:
        """Load what it takes."""
        folders: Sequence[Path | None] = self.reads(start)
        if not self._combined:
            return opening.student(next(iter(folders), None))
        if self._residual_of:
            whole = opening.load(self._residual_of)
            members = [whole, *map(opening.student, folders)]
            return _sum(opening.name, members, [1.0, *[-1.0] * len(folders)])
        members = [opening.student(folder) for folder in folders or [None]]
        return _sum(opening.name, members, self.shares(start))

    def shares(self, start: PhaseStart) -> list[float]:
        """Of each of the earlier students in ``phase:*``, adding up to 1."""
        raw = [1.0 for _ in start.kept] or [1.0]
        if self._weights == "performance" and start.kept:
            raw = [1 / start.measured[name] for name in start.kept]
        return [weight / sum(raw) for weight in raw]


def _sum(name: str, members: Sequence[Any], weights: Sequence[float]) -> Teacher:
    return CombinedTeacher(name=name, members=members, weights=weights)


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


class Itself(OfStudent):
    """``self``: the student as it stands, so that its layers teach each other: deeper
    ones the shallower, as ``align.layer_map`` says."""

    example = ""
    bare = True
    moves = True

    def __init__(self, rest: str) -> None:
        """Take nothing.

        Raises:
            InputError: anything stands behind the prefix.
        """
        super().__init__(rest)
        if rest:
            raise InputError(
                f"'self:{rest}' is none; self stands alone, and align.layer_map says "
                "which of its layers teaches which"
            )

    @property
    def says(self) -> str:
        """What it is and when it is asked."""
        return f"the student itself, {WHEN}"

    def begin(self, opening: Opening, start: PhaseStart) -> Teacher:
        """The student that is trained."""
        return opening.itself()


def _pairs(teacher: Any, student: nn.Module) -> list[tuple[Any, Any]]:
    """The weights of both, tensor by tensor; the student's as they are trained, not as
    a transform changes them."""
    trained = plain_parameters(student)
    kept = plain_parameters(teacher.loaded.model)
    return [(parameter, trained[name]) for name, parameter in kept.items()]
