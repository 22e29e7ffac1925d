"""Make and check what selects the tokens that a phase learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Any

from experiments.config.parsing import ConfigError, check
from experiments.config.tree import PhaseConfig
from plugins.options import options_of
from plugins.registry import Registry
from student.select.candidates import selector_needs
from student.select.choice import KV, OUTPUTS, ChosenSelector
from student.select.selection import Selecting, Selection


def build_selection(
    phase: PhaseConfig,
    registry: Registry,
    teachers: Sequence[str],
    domains: Sequence[str],
) -> Selection | None:
    """What selects the tokens of a phase; None where nothing does.

    Args:
        phase: resolved settings.
        registry: where names are looked up.
        teachers: of the phase, in order; empty where there are none.
        domains: of all texts that are learned from.
    """
    chosen = phase.loss.selectors
    if not chosen or not teachers:
        return None
    return Selection(
        {
            name: Selecting(
                _built(registry, each, teachers, domains), each.on, each.options
            )
            for name, each in chosen.items()
        }
    )


def selecting_needs(phase: PhaseConfig, registry: Registry) -> frozenset[str]:
    """What the selectors of a phase are told, see :mod:`fuse.signals`.

    Raises:
        InputError: one needs what nobody can give it.
    """
    every = (
        selector_needs(_built(registry, each, ("teacher",), ()))
        for each in phase.loss.selectors.values()
    )
    return frozenset().union(*every)


def check_selection(phase: PhaseConfig, registry: Registry) -> None:
    """See that selectors take their options, and that their passes can be looked at.

    Args:
        phase: resolved settings.
        registry: where names are looked up.

    Raises:
        ConfigError: an option is wrong, or a step cannot be looked at beforehand.
    """
    for name, each in phase.loss.selectors.items():
        place = f"phase.{phase.name}.loss.select.{name}"
        factory = registry.entry("selector", each.kind).value
        entry = {"use": each.kind, "on": list(each.on), **each.options}
        check(_with_on(options_of(factory)), entry, place)
        try:
            selector_needs(_built(registry, each, ("teacher",), ()))
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from error
        train = phase.train
        whole = train.engine != "deepspeed" or train.zero_stage < 3
        if not whole and train.grad_accum > 1:
            raise ConfigError(
                f"{place} looks at all passes of a step before the first is learned "
                f"from, and train.grad_accum={train.grad_accum} with "
                "train.zero_stage=3 would have to gather the student's weights for it "
                "once more; set train.zero_stage=2 or train.grad_accum=1"
            )


@dataclass(frozen=True, kw_only=True)
class _AnySelector:
    """What stands beside the options of every selector."""

    use: str = ""
    on: list[str] = field(default_factory=lambda: [KV, OUTPUTS])


def _with_on(options: type) -> type:
    bases = (_AnySelector, options)
    return make_dataclass("Selector", [], bases=bases, frozen=True, kw_only=True)


def _built(
    registry: Registry,
    chosen: ChosenSelector,
    teachers: Sequence[str],
    domains: Sequence[str],
) -> Any:
    build = registry.guarded("selector", chosen.kind)
    return build(tuple(teachers), tuple(domains), **chosen.options)
