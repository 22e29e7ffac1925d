"""The built-in sources by their prefixes, and how a name is parted into its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.errors import InputError, nearest
from teacher.names import PACKAGE, STORE, ZOO
from teacher.sources.base import TeacherSource
from teacher.sources.files import FILES, Files, PackagedModel, ZooModel
from teacher.sources.of_student import (
    Average,
    EarlierPhase,
    Itself,
    Lagging,
    StudentStart,
)
from teacher.sources.peers import Peer
from teacher.sources.server import Server
from teacher.sources.stored import Stored

SOURCES: Mapping[str, type[TeacherSource]] = {
    FILES: Files,
    ZOO.removesuffix(":"): ZooModel,
    PACKAGE.removesuffix(":"): PackagedModel,
    "student": StudentStart,
    "phase": EarlierPhase,
    "ema": Average,
    "checkpoint": Lagging,
    "self": Itself,
    "peer": Peer,
    "server": Server,
    STORE.removesuffix(":"): Stored,
}
"""By prefix, without the colon."""


def parted(model: str, sources: Mapping[str, Any]) -> tuple[str, str]:
    """A teacher's model as its source's prefix and the rest.

    Args:
        model: as a config says it.
        sources: every known source by its prefix; those that are ``bare`` may stand
            without a colon.

    Returns:
        ``files`` and the whole name where there is no prefix.

    Raises:
        InputError: a prefix that nobody offers.
    """
    prefix, colon, rest = model.partition(":")
    known = [name for name in sources if name != FILES]
    if prefix in known and (colon or getattr(sources[prefix], "bare", False)):
        return prefix, rest
    if colon and "/" not in prefix and not Path(model).exists():
        near = nearest(prefix, known)
        hint = f" (did you mean {near}:?)" if near else ""
        raise InputError(
            f"{model!r}: no teachers come from {prefix!r}{hint}; before a colon stands "
            f"one of {', '.join(sorted(known))}, a folder whose name has a colon is "
            f"given as ./{model}"
        )
    return FILES, model
