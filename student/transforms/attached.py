"""The transforms of a phase on its student, and the student without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from align.errors import InputError, prefix_errors
from align.schedules import Setting, Timetable
from align.schedules.setting import in_short
from align.tokens.batch import TokenBatch
from student.transforms.base import StudentTransform


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """A transform and how strong it is."""

    transform: StudentTransform
    strength: Setting
    """In [0, 1], or a schedule of such."""


class Transforms:
    """All transforms of a phase, in order; on its student from here on."""

    def __init__(
        self, model: nn.Module, moved: Mapping[str, Moved], timetable: Timetable
    ) -> None:
        """Put them on, at strength 0.

        Args:
            model: the student.
            moved: by name; a later one reads the weights that earlier ones make.
            timetable: of the phase.

        Raises:
            InputError: one does not fit the model; names it.
        """
        self._moved, self._timetable = dict(moved), timetable
        for name, each in moved.items():
            with prefix_errors(f"transform.{name}"):
                each.transform.attach(model)

    def at(self, step: int) -> None:
        """Be what they are after so many optimiser steps.

        Raises:
            InputError: a schedule gives more than 1.
        """
        for name, each in self._moved.items():
            place = f"transform.{name}.strength"
            strength = self._timetable.value(each.strength, place, step)
            if strength > 1:
                raise InputError(
                    f"{place} is {strength:g} at step {step}; give a number in [0, 1], "
                    "or a schedule that stays there"
                )
            each.transform.at(strength, step)

    @property
    def lines(self) -> dict[str, str]:
        """What each is on and how strong it is, in words, by name."""
        return {
            name: f"{each.transform.says() or 'the student'}, strength "
            f"{in_short(each.strength)}"
            for name, each in self._moved.items()
        }

    def finish(self, model: nn.Module, batches: Sequence[TokenBatch]) -> None:
        """Do what comes after the last step; see :meth:`.StudentTransform.finish`."""
        for each in self._moved.values():
            each.transform.finish(model, batches)

    def recall(self) -> None:
        """Be as the model's buffers say, after they were put back."""
        for each in self._moved.values():
            each.transform.recall()


def is_transformed(model: nn.Module) -> bool:
    """Whether a weight of a model is not what it is computed by."""
    return any(map(parametrize.is_parametrized, model.modules()))


@torch.no_grad()
def put_transformed(model: nn.Module, plain: Any) -> None:
    """Give a plain model the weights that a transformed one computes by.

    Args:
        model: with transforms.
        plain: the same student without, in place.
    """
    for tensor, module, key in _pairs(model, plain):
        tensor.copy_(getattr(module, key))


@torch.no_grad()
def put_untransformed(model: nn.Module, plain: Any) -> None:
    """Give a plain model the weights that a transformed one trains.

    Args:
        model: with transforms.
        plain: the same student without, in place.
    """
    for tensor, module, key in _pairs(model, plain):
        held = getattr(module, "parametrizations", {})
        tensor.copy_(held[key].original if key in held else getattr(module, key))


def _pairs(model: nn.Module, plain: Any) -> Iterator[tuple[Tensor, Any, str]]:
    """Each tensor of a plain model, with the module of another that has its like."""
    for name, tensor in [*plain.named_parameters(), *plain.named_buffers()]:
        path, _, key = name.rpartition(".")
        yield tensor, model.get_submodule(path), key
