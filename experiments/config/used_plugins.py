"""Which names a run looks up, whose they are, and whether that code has changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.config.parsing import plain
from experiments.config.phase_choice import EVERY_PHASE
from experiments.config.tree import GENERAL, Config, PhaseConfig
from fuse.config import choice_of
from plugins.entry import kind_now
from plugins.errors import PluginError
from plugins.registry import Registry
from plugins.trial import Name, Options, foreign
from student.config import ChosenTerm
from student.curriculum.choice import chosen_curriculum
from student.transforms.choice import chosen_transforms

if TYPE_CHECKING:
    from plugins.options import Choice

Records = Mapping[str, Mapping[str, str]]
"""``kind name`` -> ``plugin``, ``distribution``, ``version`` and ``digest``."""


def check_names(
    config: Config, phases: Sequence[PhaseConfig], registry: Registry
) -> None:
    """See that all names in use are known, and say else which settings ask for one.

    Raises:
        PluginError: nobody registered a name.
    """
    for kind, name in names_used(phases):
        try:
            registry.entry(kind, name)
        except PluginError as error:
            asking = ", ".join(dict.fromkeys(_asking(kind, name, config, phases)))
            raise PluginError(f"{error}; asked for by {asking or kind}") from error


def _asking(
    kind: str, name: str, config: Config, phases: Sequence[PhaseConfig]
) -> Iterator[str]:
    """The settings in which a name of a kind stands."""
    for phase in phases:
        if kind == "transform":
            place = transform_place(config, phase)
            for key, each in chosen_transforms(phase.transform, place).items():
                if each.kind == name:
                    yield f"{place}.{key}" + ("" if key == name else ".use")
        for section in GENERAL if kind != "transform" else ():
            yield from _settings_of(name, plain(getattr(phase, section)), section)


def _settings_of(name: str, value: Any, place: str) -> Iterator[str]:
    """Where a name stands, as a value or as a key."""
    if value == name:
        yield place
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            if key == name:
                yield f"{place}.{key}"
            yield from _settings_of(name, entry, f"{place}.{key}")


def transform_place(config: Config, phase: PhaseConfig) -> str:
    """The setting that a phase's transforms are of, as it is written."""
    for name in (phase.name, EVERY_PHASE):
        if config.phase.get(name, {}).get("transform") is not None:
            return f"phase.{name}.transform"
    if phase.transform == config.student.transform:
        return "student.transform"
    return f"phase.{phase.name}.transform"  # of its preset


def names_used(phases: Iterable[PhaseConfig]) -> list[Name]:
    """Kind and name of everything that some phases call by name, each once."""
    from experiments.config.schedules import schedules_of
    from student.terms.key_value import chosen_terms

    names: list[Name] = []
    for phase in phases:
        names += [
            ("phase", phase.preset),
            ("aligner", phase.align.aligner),
            ("layer_map", phase.align.layer_mapping_strategy),
            ("adapter", phase.align.adapter),
            ("rope_scaler", phase.align.rope_scaling_method),
            ("router", phase.fuse.router),
            ("space", phase.fuse.space_name),
            ("balancer", phase.loss.balancer[0]),
        ]
        names += [("schedule", moved.rule) for moved in schedules_of(phase).values()]
        terms = chosen_terms(phase.loss, phase.output)
        names += [("objective", term.kind) for term in terms.values()]
        names += [choice.plugin for choice in _named(terms)]
        names += [("selector", s.kind) for s in phase.loss.selectors.values()]
        names += [
            ("transform", t.kind) for t in chosen_transforms(phase.transform).values()
        ]
    return list(dict.fromkeys(names))


def options_used(phases: Iterable[PhaseConfig]) -> dict[Name, list[Options]]:
    """With which options some phases call what they call by name, each way once."""
    from experiments.config.schedules import schedules_of
    from student.terms.key_value import chosen_terms

    ways: dict[Name, list[Options]] = {}
    for phase in phases:
        fuse, terms = phase.fuse, chosen_terms(phase.loss, phase.output)
        for name, options in (
            (("router", fuse.router), fuse.router_options),
            (("space", fuse.space_name), fuse.space_options),
            (("balancer", phase.loss.balancer[0]), phase.loss.balancer[1]),
            *(
                (("schedule", moved.rule), moved.options)
                for moved in schedules_of(phase).values()
            ),
            *((("objective", term.kind), term.options) for term in terms.values()),
            *((choice.plugin, choice.options) for choice in _named(terms)),
            *(
                (("selector", each.kind), each.options)
                for each in phase.loss.selectors.values()
            ),
            *(
                (("transform", each.kind), each.options)
                for each in chosen_transforms(phase.transform).values()
            ),
        ):
            known = ways.setdefault(name, [])
            if options not in known:
                known.append(options)
    return ways


def writers_used(config: Config) -> dict[Name, list[Options]]:
    """Kind and name of the way of writing that a run uses, with its options."""
    if not config.data.written.on:
        return {}
    name, options = choice_of("data.written.writer", config.data.written.way)
    return {("writer", name): [options]}


def curricula_used(config: Config) -> dict[Name, list[Options]]:
    """Kind and name of the curriculum of a run, with its options."""
    chosen = chosen_curriculum(config.data.curriculum)
    return {} if chosen is None else {("curriculum", chosen.name): [chosen.options]}


def _named(terms: Mapping[str, ChosenTerm]) -> list[Choice]:
    """What the options of built-in terms name."""
    from plugins.builtin import objectives
    from plugins.options import choices

    factories = objectives()
    return [
        choice
        for name, term in terms.items()
        if term.kind in factories
        for choice in choices(
            factories[term.kind], term.options, f"loss.terms.{name}."
        ).values()
    ]


def records_of(registry: Registry, names: Iterable[Name]) -> Records:
    """Whose code some names are; built-ins have no record."""
    return {
        f"{entry.kind} {entry.name}": {
            "plugin": entry.plugin,
            "distribution": entry.distribution,
            "version": entry.version,
            "digest": entry.digest,
        }
        for entry in foreign(registry, names)
    }


def changed_code(before: Records, now: Records) -> list[str]:
    """A clause on every name that is in both records with other code.

    Where a plugin lies does not matter, nor what its distribution is called.
    """
    before = {_key_now(key): record for key, record in before.items()}
    clauses = []
    for key in sorted(before.keys() & now.keys()):
        old, new = before[key], now[key]
        if _code(old) == _code(new):
            continue
        kind, _, name = key.partition(" ")
        versions = ""
        if old["version"] != new["version"]:
            versions = f"version {old['version']} → {new['version']}, "
        elif new["version"] != "-":
            versions = f"version {new['version']}, "
        clauses.append(
            f"{kind.replace('_', ' ')} {name!r} of plugin {new['plugin']!r}: {versions}"
            f"digest {old['digest'][:12] or '–'} → {new['digest'][:12] or '–'}"
        )
    return clauses


def _key_now(key: str) -> str:
    kind, _, name = key.partition(" ")
    return f"{kind_now(kind)} {name}"


def _code(record: Mapping[str, Any]) -> tuple[str, str]:
    return record.get("version", ""), record.get("digest", "")
