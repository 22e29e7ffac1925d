"""What names rest on: the registry of plugins and the one config tree."""

from __future__ import annotations

from typing import Any

import torch

from checks.table import check


@check("plugins", "built-ins and strangers register the same way, names are unique")
def _plugins() -> str:
    from plugins import hookimpl
    from plugins.errors import PluginError
    from plugins.registry import KINDS, Registry

    class Stranger:
        @hookimpl
        def routers(self) -> dict[str, Any]:
            return {"mlp": torch.nn.Identity}

    registry = Registry.load(entry_points=False)
    counts = {kind: len(registry.names(kind)) for kind in KINDS}
    try:
        Registry.load([Stranger()], entry_points=False)
    except PluginError as error:
        assert "Stranger" in str(error), error
        return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    raise AssertionError("two plugins may claim the name 'mlp'")


@check("experiments.config", "one tree, unknown keys refused with the nearest name")
def _config() -> str:
    from experiments.config import load_config, resolve_phases
    from experiments.presets import builtin_presets

    config = load_config("quickstart", ["fuse.temperature=0.5"])
    phases = resolve_phases(config, builtin_presets())
    assert [phase.fuse.temperature for phase in phases] == [0.5] * 5
    try:
        load_config("quickstart", ["fuse.temprature=0.5"])
    except ValueError as error:
        assert "fuse.temperature" in str(error), error
        return "5 phases: " + " ".join(phase.name for phase in phases)
    raise AssertionError("fuse.temprature was accepted")
