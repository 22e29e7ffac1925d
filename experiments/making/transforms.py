"""``student.transform``: checked before any work, built for each phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Any

from align.errors import prefix_errors
from align.schedules import ScheduledShare
from experiments.config.parsing import ConfigError, check
from plugins.options import options_of
from student.transforms import Moved, StudentTransform, Transforms
from student.transforms.choice import ChosenTransform, chosen_transforms

if TYPE_CHECKING:
    from align.schedules import Timetable
    from experiments.config.tree import Config, PhaseConfig
    from plugins.registry import Registry

KIND = "transform"
"""The kind of plugin that changes students while they train."""


def check_transforms(
    config: Config, phases: Sequence[PhaseConfig], registry: Registry
) -> None:
    """See that transforms take their options and fit how the student is trained.

    Raises:
        ConfigError: an option that a transform does not take, low-rank updates or
            embeddings alone, or weights that are parted over processes.
        InputError: a value that cannot be meant.
        PluginError: nobody offers such a transform.
    """
    for phase in phases:
        chosen = chosen_transforms(phase.transform, _place(phase))
        if chosen:
            _check_training(config, phase)
        for name, each in chosen.items():
            _built(each, registry, f"{_place(phase)}.{name}")


def build_transforms(
    phase: PhaseConfig, registry: Registry, model: Any, timetable: Timetable
) -> Transforms | None:
    """Put a phase's transforms on its student, as they are before its first step.

    Returns:
        None where it has none.

    Raises:
        InputError: one does not fit the model; names it.
    """
    moved = {
        name: Moved(_built(each, registry, f"{_place(phase)}.{name}"), each.strength)
        for name, each in chosen_transforms(phase.transform).items()
    }
    if not moved:
        return None
    transforms = Transforms(model, moved, timetable)
    transforms.at(0)
    return transforms


def _place(phase: PhaseConfig) -> str:
    return f"phase.{phase.name}.transform"


def _built(each: ChosenTransform, registry: Registry, place: str) -> StudentTransform:
    options_class = options_of(registry.get(KIND, each.kind))
    schema = make_dataclass(
        "Transform", [], bases=(_AnyTransform, options_class), kw_only=True, frozen=True
    )
    entry = {"use": each.kind, "strength": each.strength, **each.options}
    read = check(schema, entry, place)
    options = {name: read[name] for name in each.options}
    with prefix_errors(place):
        made: StudentTransform = registry.guarded(KIND, each.kind)(**options)
    return made


@dataclass(frozen=True, kw_only=True)
class _AnyTransform:
    """What stands beside the options of every transform."""

    use: str = ""
    strength: ScheduledShare = 1.0


def _check_training(config: Config, phase: PhaseConfig) -> None:
    """See that there are weights to change, whole on every process."""
    student, place = config.student, f"{_place(phase)} is set"
    if student.lora.rank:
        raise ConfigError(
            f"{place}, but student.lora.rank={student.lora.rank} freezes the weights "
            "that it would change and trains updates beside them; set "
            "student.lora.rank=0 and student.quantise=none, or leave student.transform "
            "out"
        )
    if student.trained != "all":
        raise ConfigError(
            f"{place}, but student.trained={student.trained} freezes the weights that "
            "it would change; set student.trained=all, or leave student.transform out"
        )
    if phase.train.engine == "deepspeed" and phase.train.zero_stage == 3:
        raise ConfigError(
            f"{place}, which computes with whole weights, and train.zero_stage=3 parts "
            "them over processes; set train.zero_stage=2 or less"
        )
