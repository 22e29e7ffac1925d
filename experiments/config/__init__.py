"""The config of a run: one tree, one parser, one precedence."""

from typing import TYPE_CHECKING

from align.doors.lazy import lazy_names

if TYPE_CHECKING:
    from experiments.config.packaged import config_path
    from experiments.config.phase_choice import (
        EVERY_PHASE,
        PHASES,
        PRESETS,
        SINGLE_PHASE,
        default_phases,
    )
    from experiments.config.tree import (
        GENERAL,
        Config,
        PhaseConfig,
        config_text,
        hidden_settings,
        load_config,
        resolve_phase,
        resolve_phases,
        save_config,
    )
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "Config",
    "EVERY_PHASE",
    "GENERAL",
    "PHASES",
    "PRESETS",
    "PhaseConfig",
    "SINGLE_PHASE",
    "config_path",
    "config_text",
    "default_phases",
    "hidden_settings",
    "load_config",
    "resolve_phase",
    "resolve_phases",
    "save_config",
]
