"""The built-in phases, and which of them a config runs that names none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.errors import InputError, MissingFileError
from experiments.config.parsing import (
    ConfigError,
    Typed,
    build,
    load_mapping,
    merge,
)
from teacher.teacher_rule import TeacherRule

PHASES = ("dual", "multi_basic", "real_multi", "routing", "z_space")
"""The built-in phases, in the order in which they build on each other."""
PRESETS = Path(__file__).parents[1] / "phases"
"""Where they are kept, one file each."""
SINGLE_PHASE = "single"
"""The built-in phase for one teacher, outside the curriculum."""

EVERY_PHASE = "all"
"""The name under ``phase`` whose settings hold for every phase."""


def default_phases(kinds: Mapping[str, str | None], changes: Any = None) -> list[str]:
    """The built-in phases for which there are teachers enough.

    Args:
        kinds: of every teacher by name; None of one that is not known yet, which
            passes for any. With none, all five are named, so that the error says what
            they need.
        changes: the config's ``phase``, which may set ``teachers``.

    Returns:
        Names in running order; ``single`` where there are enough for none of the five.
    """
    fitting = [name for name in PHASES if _enough(_rule(name, changes), kinds)]
    return fitting or ([SINGLE_PHASE] if kinds else list(PHASES))


def _enough(rule: TeacherRule, kinds: Mapping[str, str | None]) -> bool:
    if rule.names is not None:
        unknown = any(name not in kinds for name in rule.names)
        return unknown or len(rule.names) >= rule.min  # what is unknown is told later
    taken = [
        name
        for name, kind in kinds.items()
        if rule.kinds is None or kind is None or kind in rule.kinds
    ]
    return len(taken) >= rule.min


def _rule(phase: str, changes: Any) -> TeacherRule:
    """How a built-in phase will choose teachers; a wrong change is refused later."""
    rule = preset = load_mapping(PRESETS / f"{phase}.yaml")["teachers"]
    for name in (EVERY_PHASE, phase):
        part = changes.get(name) if isinstance(changes, Mapping) else None
        changed = part.get("teachers") if isinstance(part, Mapping) else None
        rule = merge(rule, changed) if isinstance(changed, Mapping) else rule
    try:
        return build(TeacherRule, rule)
    except ConfigError:
        return build(TeacherRule, preset)


def check_counts(
    phase: str, preset: str, below: Mapping[str, Any], changes: Mapping[str, Any]
) -> None:
    """See that a phase takes no fewer teachers at most than at least.

    Args:
        phase: its name.
        preset: the name of the one that it takes after.
        below: what that says.
        changes: the config's ``phase``.

    Raises:
        ConfigError: it does; says where both numbers come from.
    """
    given: dict[str, tuple[str, Any]] = {}
    by_preset = f"by the preset {preset!r} of phase {phase!r}"
    for place, layer in (
        ("", below),
        *((f"phase.{name}.", changes.get(name, {})) for name in (EVERY_PHASE, phase)),
    ):
        rule = layer.get("teachers")
        for key in rule.keys() & {"min", "max"} if isinstance(rule, Mapping) else ():
            said = f"{place}teachers.{key} is {rule[key]}"
            given[key] = (said if place else f"{said} {by_preset}", rule[key])
    (least, low), (most, high) = (given.get(k, ("", None)) for k in ("min", "max"))
    if isinstance(low, int) and isinstance(high, int) and high < low:
        raise ConfigError(
            f"{least}, and {most}, which is less; set phase.{phase}.teachers.max to "
            f"{low} or more or to null, for all, or phase.{phase}.teachers.min to "
            f"{high} or less"
        )


def kinds_here(teachers: Mapping[str, Any]) -> dict[str, str | None]:
    """What this machine knows of the kinds of a config's teachers."""
    kinds: dict[str, str | None] = {}
    for name, entry in teachers.items():
        model = entry.get("model") if isinstance(entry, Mapping) else None
        text = model.text if isinstance(model, Typed) else model
        kinds[name] = _kind_here(text) if isinstance(text, str) else None
    return kinds


def _kind_here(model: str) -> str | None:
    from teacher.kind_here import kind_here
    from teacher.names import PACKAGE, ZOO

    if model.startswith((ZOO, PACKAGE)):
        return kind_here(model)  # known without torch, which sources import
    from teacher.sources.built_in import SOURCES, parted
    from teacher.sources.files import Files
    from teacher.sources.peers import Peer
    from teacher.sources.stored import Stored
    from teacher.store.facts import read_facts

    try:
        prefix, _ = parted(model, SOURCES)
    except InputError:
        return None  # a plugin's, or told where registries are at hand
    factory = SOURCES[prefix]
    if factory.of_student or issubclass(factory, Peer):
        return "decoder"
    if issubclass(factory, Stored):
        try:
            return read_facts(Path(model.partition(":")[2]).expanduser()).kind
        except (InputError, MissingFileError):
            return None  # opening it says why
    return kind_here(model) if issubclass(factory, Files) else None
