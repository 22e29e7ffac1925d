"""The built-in phases: partial configs, offered through the same hook as anyone's."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

from align.foreign.quote import say
from experiments.config.parsing import load_mapping
from experiments.config.phase_choice import PHASES, PRESETS, SINGLE_PHASE
from experiments.config.tree import Config
from plugins.hookspecs import hookimpl
from plugins.registry import Registry
from student.loop.launch import launched_rank


def builtin_presets() -> dict[str, dict[str, Any]]:
    """Give the packaged presets: partial config by phase name, in running order."""
    return deepcopy(_packaged())


@cache
def _packaged() -> dict[str, dict[str, Any]]:
    """Read them; every registry, plan and estimate of a run asks for them."""
    names = (*PHASES, SINGLE_PHASE)
    return {name: load_mapping(PRESETS / f"{name}.yaml") for name in names}


class BuiltinPhases:
    """The plugin object that offers them."""

    __name__ = "built-in phases"

    @hookimpl
    def phases(self) -> Mapping[str, Mapping[str, Any]]:
        """Offer the five phases of the curriculum, and the one for one teacher."""
        return builtin_presets()


def load_registry(config: Config | None = None, strict: bool = True) -> Registry:
    """Load everything a run can call by name, the built-in phases included.

    Files of plugins are told on the error stream with their SHA-256 before they run.

    Args:
        config: names further plugins and those to skip; None for none.
        strict: whether an installed plugin that fails is an error.

    Raises:
        PluginError: a plugin cannot be used, or two claim one name.
    """
    config = config or Config()
    return Registry.load(
        plugins=(BuiltinPhases(), *config.plugins),
        strict=strict,
        skip=config.skip_plugins,
        say=say if launched_rank() == 0 else lambda line: None,
    )


def presets_of(registry: Registry) -> dict[str, Mapping[str, Any]]:
    """Give every registered phase: partial config by name, built-in ones first."""
    order = {name: place for place, name in enumerate(_packaged())}
    names = sorted(
        registry.names("phase"), key=lambda name: order.get(name, len(order))
    )
    return {name: registry.get("phase", name) for name in names}
