"""Runs: the config, the driver, the report and the command ``mtkd``.

Names are looked up when first used, so that ``mtkd --help`` waits for none of them.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import Any

_HOMES = {
    "Config": "config.tree",
    "ConfigError": "config.schema",
    "PhaseConfig": "config.tree",
    "load_config": "config.tree",
    "load_registry": "config.presets",
    "read_run": "record.run_dir",
    "resolve_phase": "config.tree",
    "run_training": "run.driver",
    "write_report": "report.page",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


class _Earlier:
    """Asks for earlier names of modules where a name of this package is unknown.

    :mod:`align.support.moved` knows them, and is not imported before somebody asks.
    """

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith(f"{__name__}."):
            return None
        moved = import_module("align.support.moved")
        return moved.FINDER.find_spec(name, path, target)  # type: ignore[no-any-return]


sys.meta_path.append(_Earlier)  # type: ignore[arg-type]
