"""Which settings of a phase move, and by what schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from align.schedules import is_schedule
from align.schedules.setting import Schedule, schedule_of
from experiments.config.parsing import plain
from experiments.config.schema import join
from experiments.config.tree import PhaseConfig
from student.output_config import OUTPUT_TERMS
from student.terms.key_value import chosen_terms

SECTIONS = ("transform", "fuse", "loss", "output", "train")
"""Those with numbers that steer training."""


def schedules_of(phase: PhaseConfig) -> dict[str, Schedule]:
    """Everything in a phase that moves, by the name of the setting.

    A curve that ``train.lr_schedule`` names is left out: one always is.

    Raises:
        InputError: a schedule cannot be read.
    """
    settings = dict(_short_forms(phase))
    for section in SECTIONS:
        settings |= _moving(plain(getattr(phase, section)), section)
    return {place: schedule_of(setting, place) for place, setting in settings.items()}


def _moving(value: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if is_schedule(value):
        yield place, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _moving(entry, join(place, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _moving(entry, f"{place}[{index}]")


def _short_forms(phase: PhaseConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What settings are short for that are no schedules themselves."""
    loss, output, fuse = phase.loss, phase.output, phase.fuse
    for place, setting in (
        ("loss.fade", loss.fading),
        ("fuse.entropy_reg_strength", fuse.entropy_strength),
    ):
        if isinstance(setting, Mapping):
            yield place, setting
    if output.heat.get("rule") != "constant":
        yield "output.temperature", output.heat
    for name, term in chosen_terms(loss, output).items():
        if term.kind in OUTPUT_TERMS and any(
            option.startswith("temperature") for option in term.options
        ):
            with suppress(ValueError):  # refused by its place where options are checked
                heat = output.under(term.kind, term.options).heat
                yield f"loss.terms.{name}.temperature", heat
