"""Numbers that are not finite: whose they were, and when it is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from align.errors import MtkdError
from align.views import NonFiniteTeacherError
from student.loop.engine import Engine


class NonFiniteLossError(MtkdError, RuntimeError):
    """Too many steps in a row could not be taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """Something in one forward pass of one process that was not finite."""

    what: str
    """``loss``, ``gradient`` or ``keys and values``."""
    samples: Sequence[str]
    """The texts of the pass."""
    teacher: str | None = None
    """Whose keys and values."""
    terms: Sequence[str] = field(default_factory=list)
    """The terms of the loss that were not finite."""
    advice: str = ""
    """What its finder says."""

    def line(self) -> dict[str, Any]:
        """As an event of the metrics."""
        event: dict[str, Any] = {"event": f"non-finite {self.what}"}
        if self.teacher is not None:
            event["teacher"] = self.teacher
        if self.terms:
            event["terms"] = list(self.terms)
        return event | {"samples": list(self.samples)}


def trouble_with(problem: NonFiniteTeacherError, samples: Sequence[str]) -> Trouble:
    """A teacher's keys and values, in a pass over some texts."""
    return Trouble(
        what="keys and values",
        samples=samples,
        teacher=problem.teacher,
        advice=str(problem),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class BadSteps:
    """The steps in a row, up to now, that could not be taken."""

    engine: Engine
    log: Callable[[dict[str, Any]], None]
    """Takes an event of the metrics."""
    may_overflow: bool
    """Whether gradients are scaled: a scale that was too high is no trouble."""
    troubles: list[list[Trouble]] = field(default_factory=list)
    """Of each step, over all processes."""

    def note(
        self, step: int, applied: bool, trouble: list[Trouble], samples: list[str]
    ) -> bool:
        """Note whether a step was taken; the same on every process.

        Args:
            step: counted from 1.
            applied: whether it moved the weights.
            trouble: of this process's passes.
            samples: that this process read in it.

        Returns:
            ``applied``.
        """
        if applied:
            self.troubles.clear()
            return True
        every = self._everywhere(trouble)
        if not every:
            if self.may_overflow:  # the scale is lower now
                return False
            every = [Trouble(what="gradient", samples=self._everywhere(samples))]
        self.troubles.append(every)
        for each in every:
            self.log({"kind": "event", "step": step, **each.line()})
        return False

    def _everywhere(self, mine: list[Any]) -> list[Any]:
        every = self.engine.gather(mine)
        return [item for of_process in every for item in of_process]


def describe_trouble(bad: Sequence[Sequence[Trouble]], step: int) -> str:
    """Say what went wrong, where, and what may help.

    Args:
        bad: troubles of each of the bad steps, in order.
        step: the last of them, counted from 1.
    """
    last = bad[-1][0]
    samples = ", ".join(last.samples[:4])
    whose = f" of teacher {last.teacher!r}" if last.teacher else ""
    terms = f" ({', '.join(last.terms)})" if last.terms else ""
    said = last.advice or (
        "lower train.learning_rate or the largest loss weight, or leave these samples "
        "out. What the earlier phases wrote is intact"
    )
    return (
        f"the {last.what}{whose}{terms} was not finite {len(bad)} times in a row, last "
        f"at step {step} on samples {samples}…; every such step was left out, and a "
        f"checkpoint from before the first of them is kept. {said}"
    )
