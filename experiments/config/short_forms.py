"""Short forms of a config: lists of teachers instead of named sections."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from experiments.config.parsing import ConfigError, Typed
from teacher.names import PACKAGE, ZOO


def write_out(data: Mapping[str, Any]) -> dict[str, Any]:
    """Write out the short forms: teachers as a list or text, a phase's as a list.

    Args:
        data: a config or some of its settings.

    Raises:
        ConfigError: two models of a list would have one name.
    """
    full = dict(data)
    teachers = full.get("teachers")
    if isinstance(teachers, list):
        full["teachers"] = {_short_name(str(model)): model for model in teachers}
        if len(full["teachers"]) < len(teachers):
            raise ConfigError(
                f"teachers {teachers} share a last path part; give a mapping of "
                "names to models instead"
            )
    if isinstance(full.get("teachers"), dict):
        full["teachers"] = {
            name: {"model": entry} if isinstance(entry, str | Typed) else entry
            for name, entry in full["teachers"].items()
        }
    if isinstance(full.get("phase"), dict):
        full["phase"] = {
            name: write_out_phase(part) if isinstance(part, Mapping) else part
            for name, part in full["phase"].items()
        }
    return full


def write_out_phase(part: Mapping[str, Any]) -> dict[str, Any]:
    """The same of one phase: its teachers as a list."""
    full = dict(part)
    if isinstance(full.get("teachers"), list):
        full["teachers"] = {"names": full["teachers"]}
    return full


def _short_name(model: str) -> str:
    last = model.rstrip("/").rpartition("/")[2]
    last = last.removeprefix(ZOO).removeprefix(PACKAGE)
    return re.sub(r"[^A-Za-z0-9_-]", "-", last)
