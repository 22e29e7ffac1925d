"""Runs: the config, the driver, the report and the command ``mtkd``."""

from typing import TYPE_CHECKING

import align.doors.moved  # noqa: F401  (answers for earlier names of modules)
from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from experiments.config.presets import load_registry
    from experiments.config.schema import ConfigError
    from experiments.config.tree import (
        Config,
        PhaseConfig,
        load_config,
        resolve_phase,
    )
    from experiments.record.run_dir import read_run
    from experiments.report.page import write_report
    from experiments.run.driver import run_training
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "Config",
    "ConfigError",
    "PhaseConfig",
    "load_config",
    "load_registry",
    "read_run",
    "resolve_phase",
    "run_training",
    "write_report",
]
