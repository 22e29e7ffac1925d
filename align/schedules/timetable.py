"""What the settings of a phase are at each of its optimiser steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import fields, is_dataclass, replace
from functools import partial
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from align.errors import InputError
from align.schedules.rules import RULES, Moment, Rule
from align.schedules.seen import SeenRecord
from align.schedules.setting import (
    Schedule,
    Setting,
    is_schedule,
    numbers_of,
    schedule_of,
)
from align.support.field_types import NotNegative, checked, in_words, shown

Options = TypeVar("Options")


class Timetable:
    """Asks the rules, and remembers what they said for whoever writes it down."""

    def __init__(
        self,
        total_steps: int | None = None,
        rules: Mapping[str, Rule] | None = None,
        *,
        reads_losses: bool = False,
        reads_domains: bool = False,
        seed: int = 0,
        signals: Set[str] = frozenset(),
        numbers: Mapping[str, Any] | None = None,
    ) -> None:
        """Know how long the phase is and which rules there are.

        Args:
            total_steps: optimiser steps of the phase; None: every schedule must say
                its own.
            rules: by name; None: those for any number.
            reads_losses: whether a setting moves by what becomes of losses.
            reads_domains: whether one moves by how hard domains are.
            seed: of the phase, for what terms draw.
            signals: of :data:`.SIGNALS`, by which settings move that are no
                temperatures of outputs.
            numbers: what settings that move may be, types by place; one that is not
                among them is a finite number >= 0.
        """
        self.total_steps, self.reads_losses = total_steps, reads_losses
        self.seed = seed
        self._numbers = dict(numbers or {})
        self.kept: Callable[[str, int], float] | None = None
        """What is left of a term's loss before a step, see :class:`.LossRecord`; all of
        it until whoever notes losses puts a record here."""
        if reads_losses:
            self.kept = _nothing_lost
        self.reads_domains = reads_domains
        self.domains: Callable[[int], Mapping[str, float]] | None = None
        """How hard each domain that is known is before a step; none is until whoever
        notes domains puts a record here."""
        if reads_domains:
            self.domains = _nothing_hard
        self.signals = frozenset(signals)
        self.seen = SeenRecord() if self.signals else None
        """What outputs look like, where some of ``signals`` are asked for; nothing is
        known until whoever notes outputs puts a record here."""
        self._rules = RULES if rules is None else rules
        self._noted: dict[str, list[float]] = {}

    def value(self, setting: Setting, place: str, step: int) -> float:
        """A setting at a step.

        Args:
            setting: a number, or ``{from, to, steps, rule}``.
            place: its name, under which it is noted.
            step: optimiser steps taken in this phase.

        Raises:
            InputError: the schedule cannot be read, asks for what is not known here,
                or gives something else than the setting may be.
        """
        number = self._numbers.get(place, NotNegative)
        return self._value(setting, place, step, number)

    def _value(self, setting: Setting, place: str, step: int, number: Any) -> float:
        if not isinstance(setting, Mapping):
            return setting
        value = self.value_of(schedule_of(setting, place), place, step, number)
        self.note(place, value)
        return value

    def options(self, options: Options, place: str, step: int) -> Options:
        """Settings that belong together, each a number at a step.

        Args:
            options: a dataclass of them; anything else comes back as it is.
            place: where they stand; each is noted under ``PLACE.FIELD``.
            step: optimiser steps taken in this phase.

        Raises:
            InputError: as :meth:`value`, or the dataclass refuses the numbers.
        """
        if not is_dataclass(options) or isinstance(options, type):
            return options
        numbers = numbers_of(type(options))
        moved = {
            field.name: self._value(
                setting,
                f"{place}.{field.name}",
                step,
                numbers.get(field.name, NotNegative),
            )
            for field in fields(options)
            if is_schedule(setting := getattr(options, field.name))
        }
        return replace(options, **moved) if moved else options

    def value_of(
        self, schedule: Schedule, place: str, step: int, number: Any = None
    ) -> float:
        """The same of a schedule that has been read; nothing is noted.

        Args:
            schedule: whose value.
            place: the setting's name.
            step: optimiser steps taken in this phase.
            number: the type that the value has to have; None: the setting's.
        """
        number = number or self._numbers.get(place, NotNegative)
        value: Any = self.ask(schedule, place, self.moment(schedule, place, step))
        if isinstance(value, Tensor) and value.dim() == 0:
            value = value.item()
        try:
            if isinstance(value, bool) or not isinstance(value, Real):
                raise InputError("no number")
            return _fitting(float(value), number, schedule)
        except InputError:
            raise InputError(
                f"{place}: the rule {schedule.rule} gives {shown(value)} at step "
                f"{step}; it is to be one finite number, and here {in_words(number)}: "
                "mend the rule or choose another"
            ) from None

    def moment(
        self, schedule: Schedule, place: str, step: int, **signals: Any
    ) -> Moment:
        """What a rule is shown at a step.

        Args:
            schedule: whose.
            place: the setting, for errors.
            step: optimiser steps taken in this phase.
            signals: further fields of :class:`Moment`.

        Raises:
            InputError: the schedule leaves ``steps`` out and the phase has no length.
        """
        steps = self.total_steps if schedule.steps is None else schedule.steps
        if steps is None:
            raise InputError(f"{place}.steps is null, and here is no phase; give steps")
        if self.kept is not None:
            signals["kept"] = partial(_kept_at, self.kept, step)
        if self.domains is not None:
            signals = {"difficulty": partial(_mean, self.domains, step)} | signals
        if self.seen is not None:
            signals = self.seen.signals(self.signals, step) | signals
        return Moment(
            start=schedule.start,
            end=schedule.end,
            progress=1.0 if step >= steps else step / steps,
            step=step,
            steps=steps,
            **signals,
        )

    def ask(self, schedule: Schedule, place: str, moment: Moment) -> float | Tensor:
        """What the schedule's rule says, as it says it.

        Raises:
            InputError: it asks for what is not known here; names the place.
        """
        if schedule.rule not in self._rules:
            raise InputError(
                f"{place}.rule is {schedule.rule!r}; give one of "
                f"{', '.join(self._rules)}"
            )
        try:
            return self._rules[schedule.rule](moment, **schedule.options)
        except InputError as error:
            raise InputError(f"{place}: the rule {schedule.rule}: {error}") from None

    def note(self, place: str, value: float) -> None:
        """Remember what a setting is now."""
        self._noted.setdefault(place, []).append(float(value))

    def taken(self) -> dict[str, float]:
        """What has been noted since this was asked last, by place; where a setting is
        asked for several teachers, the mean."""
        noted, self._noted = self._noted, {}
        return {
            place: values[0]
            if len(set(values)) == 1
            else math.fsum(values) / len(values)
            for place, values in sorted(noted.items())
        }


def _fitting(value: float, number: Any, schedule: Schedule) -> float:
    """A value as a setting's type has it; a built-in curve that leaves the type by its
    last bit is at its end."""
    try:
        return float(checked(number, value, ""))
    except InputError:
        if schedule.rule not in RULES:
            raise
    ends = [schedule.start, schedule.end, schedule.options.get("peak", schedule.end)]
    return float(checked(number, min(max(value, min(ends)), max(ends)), ""))


def _nothing_lost(term: str, step: int) -> float:
    return 1.0


def _nothing_hard(step: int) -> Mapping[str, float]:
    return {}


def _mean(domains: Callable[[int], Mapping[str, float]], step: int) -> Tensor:
    known = list(domains(step).values())
    return torch.tensor(math.fsum(known) / max(1, len(known)))


def _kept_at(kept: Callable[[str, int], float], step: int, term: str) -> float:
    return kept(term, step)
