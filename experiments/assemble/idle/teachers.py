"""Teachers that a config has and nobody asks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from experiments.config.parsing import plain
from experiments.config.tree import Config


def idle_teachers(config: Config, taken: Collection[str]) -> list[str]:
    """A sentence on each teacher without anything to do: that no phase takes, and that
    neither writes texts, nor scores them, nor gives the student its vocabulary.

    Args:
        config: the run.
        taken: teachers that some phase of some arm takes.
    """
    roles = (config.data, config.student, config.eval)
    named = {value for role in roles for value in _values(plain(role))}
    return [
        f"teacher {name!r} teaches nothing: no phase takes it; name it in a phase "
        f"(phase.NAME.teachers=[{name}, …]), add a phase that takes more teachers or "
        "others of its kind, or leave it out"
        for name in config.teachers
        if name not in taken and name not in named
    ]


def _values(tree: Any) -> Iterator[str]:
    """All texts among the values of plain data."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping | list):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _values(part)
