"""``student.transform``: checked before any work, built for each phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import prefix_errors
from align.schedules import ScheduledShare, Setting
from align.schedules.setting import greatest
from experiments.assemble.checks import timetable_of
from experiments.config.parsing import ConfigError, check
from experiments.config.used_plugins import transform_place
from plugins.options import options_of
from student.transforms import (
    Moved,
    StudentTransform,
    Transforms,
    put_untransformed,
)
from student.transforms.choice import ChosenTransform, chosen_transforms

if TYPE_CHECKING:
    from align.schedules import Timetable
    from align.text.documents import TextSample
    from experiments.assemble.data import Encoder
    from experiments.assemble.models import Models
    from experiments.config.tree import Config, PhaseConfig
    from plugins.registry import Registry

_AT_ONCE = 8
"""Texts of a sample in one forward."""
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
        place = transform_place(config, phase)
        chosen = chosen_transforms(phase.transform, place)
        if chosen:
            _check_training(config, phase, place)
        for name, each in chosen.items():
            _built(each, registry, f"{place}.{name}")


def build_transforms(
    phase: PhaseConfig, registry: Registry, model: Any, timetable: Timetable
) -> Transforms | None:
    """Put a phase's transforms on its student, as they are before its first step.

    Returns:
        None where it has none.

    Raises:
        InputError: one does not fit the model; names it.
    """
    moved = _moved(phase, registry)
    if not moved:
        return None
    transforms = Transforms(model, moved, timetable)
    transforms.at(0)
    return transforms


def transformer_of(
    phase: PhaseConfig, registry: Registry
) -> Callable[[Any], Transforms | None] | None:
    """What puts a phase's transforms on a model, as strong as they are in the end.

    What moves by losses or outputs, whose end nobody knows, is as strong as it may be.

    Returns:
        None where the phase has none.
    """
    if not phase.transform:
        return None
    steps = phase.train.steps or 1

    def transformed(model: Any) -> Transforms | None:
        timetable = timetable_of(phase, registry, steps)
        moved = {
            name: replace(each, strength=_known(each.strength, registry))
            for name, each in _moved(phase, registry).items()
        }
        transforms = Transforms(model, moved, timetable)
        transforms.at(0)
        transforms.at(steps)
        return transforms

    return transformed


def finish_transforms(
    transforms: Transforms, model: Any, encode: Encoder, samples: Sequence[TextSample]
) -> None:
    """Have transforms be as strong as the student that is kept, and do what is left.

    Args:
        transforms: of the phase.
        model: its student, in evaluation mode.
        encode: its tokenizer.
        samples: of what it learned from.
    """
    transforms.recall()
    texts, device = [sample.text for sample in samples], model.device
    starts = range(0, len(texts), _AT_ONCE)
    transforms.finish(
        model, [encode(texts[start : start + _AT_ONCE]).to(device) for start in starts]
    )


def save_untransformed(models: Models, model: Any, path: Path) -> None:
    """Keep a transformed student's weights as they are trained: a later phase goes on
    from these, as training on from rounded ones would round them twice.

    Args:
        models: of the run.
        model: from ``models``, with transforms.
        path: folder, replaced as a whole.
    """
    plain = models.student(None)
    put_untransformed(model, plain)
    models.save_student(plain, path)


def _place(phase: PhaseConfig) -> str:
    return f"phase.{phase.name}.transform"


def _moved(phase: PhaseConfig, registry: Registry) -> dict[str, Moved]:
    return {
        name: Moved(_built(each, registry, f"{_place(phase)}.{name}"), each.strength)
        for name, each in chosen_transforms(phase.transform).items()
    }


def _known(strength: Setting, registry: Registry) -> Setting:
    if not isinstance(strength, Mapping):
        return strength
    rule = registry.entry("schedule", strength.get("rule", "linear")).value
    return greatest(strength) if getattr(rule, "needs", ()) else strength


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


def _check_training(config: Config, phase: PhaseConfig, setting: str) -> None:
    """See that there are weights to change, whole on every process."""
    student, place = config.student, f"{setting} is set"
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
