"""Fixtures shared by every test."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real tokenizers and texts kept beside the checkout, where present."""
    if not SHARED.is_dir():
        pytest.skip(f"real tokenizers and texts are absent: no folder {SHARED}")
    return SHARED
