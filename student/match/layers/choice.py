"""Which of the student's layers a term compares at a step, and how much each counts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from align.errors import InputError
from align.schedules import RULES, Setting
from align.schedules.setting import ScheduleOf, schedule_of
from align.support.field_types import AtLeastOne, checked
from student.objective import StepContext

LayerWeights = Literal["equal", "depth", "gradient"]
Layers = str | list[int] | dict[str, Any]
"""``all``; a rule with how many layers, as ``last:K`` or ``{last: K}``, where K may be
a schedule: ``first``, ``last``, ``random``, ``gradient``, ``probe``; ``rising:STEPS``,
short for ``{first: {from: 1, to: all of them, steps: STEPS - 1}}``; or numbers, of
which -1 is the last layer's."""

_Number = AtLeastOne | Annotated[dict[str, Any], ScheduleOf(AtLeastOne)]
_COUNTED = ("first", "last", "random", "gradient", "probe")
_SHORT = re.compile(rf"({'|'.join(_COUNTED)}|rising):([1-9][0-9]*)")
_NUMBERS = "numbers"


class LayerChoice:
    """Which layers a term compares, as a config says it."""

    def __init__(self, layers: Layers) -> None:
        """Read what is said.

        Args:
            layers: see :data:`Layers`.

        Raises:
            InputError: no layers can be meant, or none is.
        """
        self._said = layers
        self.rule = "all"
        """``all``, ``numbers``, or one of those with how many."""
        self._count: Setting = 1
        self._rising = 0
        if isinstance(layers, Mapping):
            self._read_count(layers)
        elif isinstance(layers, str):
            self._read_word(layers)
        else:
            if not layers or len(set(layers)) < len(layers):
                raise InputError(
                    f"layers is {layers}; give one layer or more, each once"
                )
            self.rule, self._numbers = _NUMBERS, layers

    def _read_word(self, layers: str) -> None:
        some = _SHORT.fullmatch(layers)
        if layers == "all":
            return
        if some is None:
            raise self._unknown()
        if some[1] == "rising":
            self.rule, self._rising = "first", int(some[2])
        else:
            self.rule, self._count = some[1], int(some[2])

    def _read_count(self, layers: Mapping[str, Any]) -> None:
        if len(layers) != 1 or not layers.keys() <= set(_COUNTED):
            raise self._unknown()
        ((self.rule, count),) = layers.items()
        self._count = checked(_Number, count, f"layers.{self.rule}")

    def _unknown(self) -> InputError:
        return InputError(
            f"layers is {self._said!r}; give all, {':K, '.join(_COUNTED)}:K, "
            "rising:STEPS, {last: {from: 1, to: K, steps: STEPS}} or a list of layer "
            "numbers"
        )

    @property
    def settled(self) -> bool:
        """Whether a config says which they are: else they are logged."""
        moves = self._rising or isinstance(self._count, Mapping)
        return not moves and self.rule in ("all", _NUMBERS, "first", "last")

    @property
    def compares(self) -> bool:
        """Whether what a comparison finds says which."""
        return self.rule in ("gradient", "probe")

    def check(self, num_layers: int) -> None:
        """See that a student has them.

        Args:
            num_layers: L.

        Raises:
            InputError: it has not.
        """
        if self.rule == _NUMBERS:
            beyond = [x for x in self._numbers if not -num_layers <= x < num_layers]
            if beyond:
                raise InputError(
                    f"layers asks for layer {beyond[0]}, but the student has layers "
                    f"0..{num_layers - 1}, or -1..{-num_layers} from the top"
                )
            if len({x % num_layers for x in self._numbers}) < len(self._numbers):
                raise InputError(
                    f"layers is {self._numbers}, which names a layer twice"
                )
        elif _largest(self._count) > num_layers:
            raise InputError(
                f"layers is {self._said!r}, but the student has {num_layers} layers"
            )

    def kept(self, num_layers: int) -> list[int]:
        """All that a step may compare, ascending.

        Args:
            num_layers: L.
        """
        if self.rule == _NUMBERS:
            return sorted(layer % num_layers for layer in self._numbers)
        if self.rule == "first":
            return list(range(self._most(num_layers)))
        if self.rule == "last":
            return list(range(num_layers - self._most(num_layers), num_layers))
        return list(range(num_layers))

    def chosen(
        self, num_layers: int, ctx: StepContext, ranked: Sequence[int] | None = None
    ) -> list[int]:
        """Those that a step compares, ascending; alike in all passes and processes.

        Args:
            num_layers: L.
            ctx: of the term, says which step, seed and schedules.
            ranked: of ``gradient`` and ``probe`` all layers, the best first; None while
                nothing is known of them, when all are compared.

        Raises:
            InputError: a schedule gives more layers than it may, or none.
        """
        if self.rule in ("all", _NUMBERS):
            return self.kept(num_layers)
        count = self._count_at(num_layers, ctx)
        if self.rule == "first":
            return list(range(count))
        if self.rule == "last":
            return list(range(num_layers - count, num_layers))
        if self.rule == "random":
            ranked = torch.randperm(num_layers, generator=ctx.chance()).tolist()
        return sorted(range(num_layers) if ranked is None else ranked[:count])

    def _setting(self, num_layers: int) -> Setting:
        if not self._rising:
            return self._count
        return {"from": 1, "to": num_layers, "steps": self._rising - 1}

    def _most(self, num_layers: int) -> int:
        """How many a step may compare; a stranger's rule may give all."""
        setting = self._setting(num_layers)
        if isinstance(setting, Mapping) and setting.get("rule", "linear") not in RULES:
            return num_layers
        return _largest(setting)

    def _count_at(self, num_layers: int, ctx: StepContext) -> int:
        """How many, halves rounded up."""
        setting = self._setting(num_layers)
        if not isinstance(setting, Mapping):
            return int(setting)
        place = f"{ctx.place}.layers" + ("" if self._rising else f".{self.rule}")
        schedule, most = schedule_of(setting, place), self._most(num_layers)
        value = ctx.timetable.value_of(schedule, place, ctx.step)
        count = math.floor(value + 0.5)
        if not 1 <= count <= most:
            raise InputError(
                f"{place}: the rule {schedule.rule} gives {value:g} layers at step "
                f"{ctx.step}; give a rule whose numbers are 1 to {most}"
            )
        ctx.timetable.note(place, count)
        return count


def _largest(setting: Setting) -> int:
    """The largest number that a setting names."""
    if not isinstance(setting, Mapping):
        return int(setting)
    ends = ("from", "to", "peak")
    return max(int(setting[end]) for end in ends if end in setting)


def layer_shares(weights: LayerWeights, chosen: Sequence[int], like: Tensor) -> Tensor:
    """How much each of the chosen layers counts, (L',) summing to 1.

    Args:
        weights: ``equal``, or ``depth``: in proportion to the layer's number from 1;
            of ``gradient`` :class:`GradientLengths` knows.
        chosen: numbers from 0.
        like: gives device and dtype.
    """
    shares = torch.tensor(
        [1.0 if weights == "equal" else layer + 1.0 for layer in chosen],
        device=like.device,
        dtype=like.dtype,
    )
    return shares / shares.sum()
