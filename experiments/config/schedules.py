"""Which settings of a phase move, and by what schedule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from functools import partial
from typing import Any

from align.errors import InputError
from align.schedules import RULES, SeenRecord, Timetable, is_schedule, signals_of
from align.schedules.setting import Schedule, numbers_of, schedule_of
from align.support.field_types import Share
from experiments.config.parsing import ConfigError, check, plain
from experiments.config.schema import join
from experiments.config.tree import PhaseConfig
from plugins.options import choices, options_of
from plugins.registry import Registry
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


def heats_of(phase: PhaseConfig) -> frozenset[str]:
    """The temperatures of outputs, by the name of the setting: rules may look at each
    place of a pass there."""
    terms = chosen_terms(phase.loss, phase.output).items()
    on_outputs = [name for name, term in terms if term.kind in OUTPUT_TERMS]
    of_terms = (f"loss.terms.{name}.temperature" for name in on_outputs)
    return frozenset({"output.temperature", *of_terms})


def moving_numbers(phase: PhaseConfig, registry: Registry) -> dict[str, Any]:
    """What each setting of a phase that moves may be, types by its name; those that any
    number >= 0 will do for are left out.

    Raises:
        PluginError: nobody offers a term, or what one is built of.
    """
    types: dict[str, Any] = {}

    def add(options: type, place: str) -> None:
        named = numbers_of(options).items()
        types.update({join(place, name): number for name, number in named})

    for section in ("fuse", "loss", "output", "train"):
        add(type(getattr(phase, section)), section)
    for name, term in chosen_terms(phase.loss, phase.output).items():
        factory = registry.entry("objective", term.kind).value
        place = join("loss.terms", name)
        add(options_of(factory), place)
        for option, choice in choices(factory, term.options).items():
            chosen = registry.entry(choice.kind, choice.name).value
            add(options_of(chosen), join(place, option))
    for name, each in phase.loss.selectors.items():
        factory = registry.entry("selector", each.kind).value
        add(options_of(factory), join("loss.select", name))
    types |= {f"transform.{name}.strength": Share for name in phase.transform}
    entry = re.compile(r"\[\d+\]$")  # of a list
    places = {place: entry.sub("", place) for place in schedules_of(phase)}
    return {place: types[name] for place, name in places.items() if name in types}


def check_schedules(
    phase: PhaseConfig, registry: Registry, timetable: Timetable, predicts: bool
) -> None:
    """Ask each schedule once, before any work, but for temperatures of outputs, which
    may look at what only a step shows.

    Args:
        phase: resolved settings.
        registry: where rules are looked up.
        timetable: of the phase.
        predicts: whether a term of the phase reads what teachers predict.

    Raises:
        ConfigError: a rule goes by what no term reads, or an option is wrong.
        InputError: a rule gives what a number cannot be, or moves other numbers.
    """
    terms, heats = frozenset(chosen_terms(phase.loss, phase.output)), heats_of(phase)
    timetable.kept, timetable.seen = partial(_whole, terms), SeenRecord()
    for place, schedule in schedules_of(phase).items():
        rule = registry.entry("schedule", schedule.rule).value
        check(options_of(rule), schedule.options, place)
        if schedule.rule in RULES or place not in heats:
            timetable.value_of(schedule, place, 0)
        if place not in heats and signals_of(rule) and not predicts:
            raise ConfigError(
                f"phase {phase.name!r}: {place} moves by the rule {schedule.rule}, "
                "which goes by what teachers predict, and no term of the phase reads "
                "that; give output.projected_kl or another term on outputs a weight "
                "> 0, or choose another rule"
            )


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


def _whole(terms: Set[str], term: str, step: int) -> float:
    """What is left of a loss that has not been seen yet.

    Raises:
        InputError: the phase has no such term.
    """
    if term not in terms:
        raise InputError(
            f"no term of the phase is called {term!r}; it has "
            f"{', '.join(sorted(terms))}"
        )
    return 1.0
