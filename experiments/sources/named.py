"""The sources that a config's teachers name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from align.errors import prefix_errors
from experiments.config.parsing import ConfigError, check
from experiments.config.tree import Config
from plugins.options import options_of
from teacher.sources.base import TeacherSource
from teacher.sources.built_in import SOURCES, parted
from teacher.sources.peers import Peer
from teacher.sources.server import Server
from teacher.sources.stored import Stored

if TYPE_CHECKING:
    from plugins.registry import Registry
    from plugins.trial import Name, Options
    from teacher.store.facts import StoreFacts

KIND = "teacher_source"
"""Their kind of plugin."""


def source_of(
    config: Config, name: str, registry: Registry | None = None
) -> TeacherSource:
    """What a teacher of a config comes from.

    Args:
        config: the run.
        name: the teacher's.
        registry: everything that a config can call by name; None: what is built in.

    Raises:
        ConfigError: an option that the source does not take.
        InputError: a prefix that nobody offers, or what cannot be meant behind it.
    """
    entry, place = config.teachers[name], f"teachers.{name}"
    with prefix_errors(f"{place}.model"):
        prefix, rest = _parted(entry.model, registry)
    factory: Any
    factory = SOURCES[prefix] if registry is None else registry.get(KIND, prefix)
    check(options_of(factory), entry.options, f"{place}.options")
    if registry is not None:
        factory = registry.guarded(KIND, prefix)
    with prefix_errors(f"{place}.model"):
        source: TeacherSource = factory(rest, **entry.options)
    _check_entry(config, name, source)
    return source


def sources_of(
    config: Config, registry: Registry | None = None
) -> dict[str, TeacherSource]:
    """The same of every teacher, by its name."""
    return {name: source_of(config, name, registry) for name in config.teachers}


def sources_used(
    config: Config, registry: Registry, teachers: Iterable[str] | None = None
) -> dict[Name, list[Options]]:
    """Kind and prefix of the sources of some teachers, or all, with their options."""
    used: dict[Name, list[Options]] = {}
    for name in config.teachers if teachers is None else teachers:
        if name not in config.teachers:
            continue  # what a fused store makes of all
        entry = config.teachers[name]
        prefix, _ = _parted(entry.model, registry)
        used.setdefault((KIND, prefix), []).append(entry.options)
    return used


def described_by(config: Config, source: TeacherSource) -> tuple[str, str | None]:
    """The models that tell what a teacher is before it is loaded.

    Returns:
        That of its ``config.json``, and that of its vocabulary where this is another's.

    Raises:
        ConfigError: nothing is known of it before it is opened.
    """
    if source.of_student:
        return config.student.model, config.vocabulary
    if source.like is None:
        raise ConfigError(
            f"nothing is known of a teacher of {type(source).__name__} before a run "
            "opens it; `mtkd train --dry-run` does"
        )
    return source.like, None


def stored_facts(source: TeacherSource) -> StoreFacts | None:
    """What a teacher's own store says of it; None of one that is read from none."""
    return source.facts if isinstance(source, Stored) else None


def said_of(sources: Mapping[str, TeacherSource]) -> list[str]:
    """A sentence on each teacher that is more than a model from its files, but those
    that move: of these a run warns."""
    return [
        f"teacher {name!r}: {source.says}"
        for name, source in sources.items()
        if source.says and not source.moves
    ]


def _parted(model: str, registry: Registry | None) -> tuple[str, str]:
    if registry is None:
        factories: Mapping[str, Any] = SOURCES
    else:
        factories = {name: registry.get(KIND, name) for name in registry.names(KIND)}
    return parted(model, factories)


_OF_FILES = {
    "dtype": "auto",
    "quantise": "none",
    "shard": False,
    "trust_remote_code": False,
    "attn_implementation": "auto",
    "compile": False,
}
"""Settings of how files are loaded, with what they are where nobody asks."""
_OF_A_READER = {**_OF_FILES, "long_texts": "extend"}
"""The same, and of how a teacher reads."""


def _check_entry(config: Config, name: str, source: TeacherSource) -> None:
    """See that nothing is asked of a teacher that its source has no place for."""
    entry, usual = config.teachers[name], dict[str, object]()
    if source.of_student:
        usual, why = _OF_FILES, "is the student's own make and has its type"
    elif isinstance(source, Peer):
        usual, why = _OF_A_READER, "trains, whole and in float32"
    elif isinstance(source, Server):
        usual, why = {"compile": False}, "is asked elsewhere"
    elif isinstance(source, Stored):
        usual, why = _OF_A_READER, "is read as its model was when it was extracted"
    for setting, value in usual.items():
        if getattr(entry, setting) != value:
            raise ConfigError(
                f"teachers.{name}.{setting} is {getattr(entry, setting)}, but "
                f"{entry.model} {why}; leave the setting out"
            )
