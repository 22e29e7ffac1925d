"""How far a whole run is: the steps of all arms and phases, and their time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from student.config import TrainConfig


@dataclass(slots=True)
class _Stretch:
    """One phase of one arm."""

    steps: int
    teachers: int
    done: int = 0


class Course:
    """All that a run trains; each phase of each arm is a leg of it.

    What a step takes is measured, apart for each number of teachers, and where none of
    that number has been taken yet, reckoned as ``1 + teachers`` students' steps.
    """

    def __init__(
        self,
        legs: Mapping[tuple[str, int], tuple[int, int, bool]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Lay the course out.

        Args:
            legs: (arm, phase counted from 0) -> (optimiser steps, number of teachers,
                whether an earlier launch finished it).
            clock: seconds.
        """
        self._legs = {
            key: _Stretch(steps, teachers, steps if whole else 0)
            for key, (steps, teachers, whole) in legs.items()
        }
        self._pace: dict[int, tuple[float, int]] = {}
        self._clock = clock

    def leg(self, arm: str, phase: int) -> Leg | None:
        """A phase to train now; None if it is no part of the course."""
        stretch = self._legs.get((arm, phase))
        return None if stretch is None else Leg(self, stretch)

    @property
    def share(self) -> float:
        """Share of all steps that are done."""
        total = sum(leg.steps for leg in self._legs.values())
        return sum(leg.done for leg in self._legs.values()) / total if total else 1.0

    def seconds_left(self) -> float | None:
        """Seconds for all steps that are left; None before a step was measured."""
        if not self._pace:
            return None
        legs = self._legs.values()
        return sum((leg.steps - leg.done) * self._step(leg.teachers) for leg in legs)

    def _step(self, teachers: int) -> float:
        near = min(self._pace, key=lambda known: abs(known - teachers))
        seconds, steps = self._pace[near]
        return seconds / steps * (1 + teachers) / (1 + near)


class Leg:
    """One phase of one arm while it is trained."""

    def __init__(self, course: Course, stretch: _Stretch) -> None:
        """Begin now."""
        self._course, self._stretch = course, stretch
        self._last = course._clock()

    def start(self, done: int) -> None:
        """Begin now with what an earlier launch has done."""
        self._stretch.done, self._last = done, self._course._clock()

    def advance(self, done: int) -> None:
        """Note how many steps are done, and what they took."""
        now, stretch = self._course._clock(), self._stretch
        seconds, steps = self._course._pace.get(stretch.teachers, (0.0, 0))
        if done > stretch.done:
            self._course._pace[stretch.teachers] = (
                seconds + now - self._last,
                steps + done - stretch.done,
            )
        stretch.done, self._last = done, now

    def describe(self) -> str:
        """How far the whole run is, and about how long its training goes on."""
        left = self._course.seconds_left()
        said = f"run {self._course.share:.0%}"
        return said if left is None else f"{said}, about {duration(left)} left"


def duration(seconds: float) -> str:
    """Seconds as a reader wants them: ``7 s``, ``3 min 20 s``, ``5 h 2 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def phase_steps(train: TrainConfig, samples: int, samples_per_step: int) -> int:
    """Optimiser steps of a phase: ``steps``, or the fewest that read every epoch.

    Steps are always full and read on where an epoch ends, so only the last may begin
    one more.
    """
    if train.steps is not None:
        return train.steps
    return -(-train.num_epochs * samples // samples_per_step)
