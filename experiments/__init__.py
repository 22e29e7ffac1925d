"""Runs: the config, the driver, the report and the command ``mtkd``.

Names are looked up when first used, so that ``mtkd --help`` waits for none of them.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Config": "config",
    "ConfigError": "schema",
    "PhaseConfig": "config",
    "load_config": "config",
    "load_registry": "presets",
    "read_run": "run_dir",
    "resolve_phase": "config",
    "run_training": "driver",
    "write_report": "report",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
