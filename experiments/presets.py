"""The built-in phases: partial configs, offered through the same hook as anyone's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config import PHASES
from experiments.settings import load_mapping
from plugins.hookspecs import hookimpl

FOLDER = Path(__file__).parent / "phases"


def builtin_presets() -> dict[str, dict[str, Any]]:
    """Read the packaged presets: partial config by phase name, in running order."""
    return {name: load_mapping(FOLDER / f"{name}.yaml") for name in PHASES}


class BuiltinPhases:
    """The plugin object that offers them."""

    @hookimpl
    def phases(self) -> Mapping[str, Mapping[str, Any]]:
        """Offer the five built-in phases."""
        return builtin_presets()
