"""Fixtures for the experiments package."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config import PHASES

PRESETS = Path(__file__).parents[2] / "experiments" / "phases"


@pytest.fixture(scope="session")
def presets() -> dict[str, Any]:
    """The built-in phases, as YAML holds them."""
    return {
        name: yaml.safe_load((PRESETS / f"{name}.yaml").read_text()) for name in PHASES
    }
