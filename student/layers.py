"""What settings say of single layers of the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.errors import InputError
from align.schedules import Setting, Timetable


def feature_temperature(
    temperatures: Sequence[float],
    num_layers: int,
    place: str = "loss.temperatures",
    rise: float = 0.0,
) -> Tensor | None:
    """(L,) float32 of ``loss.temperatures``; None where all are 1.

    Args:
        temperatures: one, or one a layer.
        num_layers: L of the student.
        place: the setting, for errors.
        rise: layer l of L, from 1, is compared at ``1 + rise · l / L`` times its own.

    Raises:
        ValueError: neither one nor L.
    """
    check_layers(temperatures, num_layers, place)
    if all(temperature == 1 for temperature in temperatures) and not rise:
        return None
    each = torch.tensor(temperatures, dtype=torch.float32).expand(num_layers)
    return each * (1 + rise * torch.arange(1, num_layers + 1) / num_layers)


def check_layers(
    entries: Sequence[object], num_layers: int, place: str = "loss.temperatures"
) -> None:
    """Refuse a list that has neither one entry nor one a layer.

    Raises:
        InputError: names the place.
    """
    if len(entries) not in (1, num_layers):
        raise InputError(
            f"{place} has {len(entries)} entries, but the student has "
            f"{num_layers} layers; give one for all, or one for each"
        )


def moved(
    settings: Sequence[Setting], place: str, timetable: Timetable, step: int
) -> list[float]:
    """What each of some settings is at a step.

    Args:
        settings: numbers or schedules.
        place: the list's name.
        timetable: of the phase.
        step: optimiser steps taken in it.
    """
    return [
        timetable.value(setting, f"{place}[{index}]", step)
        for index, setting in enumerate(settings)
    ]


def layers_read(which: str, num_layers: int) -> tuple[int, ...]:
    """The student layers that read fused KV in the outcome pass.

    Args:
        which: ``all``, ``upper``, ``lower``, ``middle`` or numbers such as "1,3".
        num_layers: L of the student.

    Raises:
        ValueError: a number outside 0..L-1.
    """
    half = num_layers // 2
    named = {
        "all": range(num_layers),
        "upper": range(half, num_layers),
        "lower": range(max(half, 1)),
        "middle": range(1, num_layers - 1) if num_layers > 2 else range(num_layers),
    }
    if which in named:
        return tuple(named[which])
    layers = tuple(int(part) for part in which.split(","))
    for layer in layers:
        if layer >= num_layers:
            raise InputError(
                f"loss.outcome_layers asks for layer {layer}, but the student has "
                f"layers 0..{num_layers - 1}"
            )
    return layers
