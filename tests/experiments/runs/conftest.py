"""A finished run that modules share, and copies of it that tests may damage."""

import shutil
from pathlib import Path

import pytest
import yaml

from experiments.cli import main
from tests.experiments.conftest import undrawn
from tests.experiments.small_runs import small_config


@pytest.fixture(scope="session")
def finished(tiny_zoo, tmp_path_factory) -> tuple[Path, Path]:
    """The folder of a finished run, and its config."""
    folder = tmp_path_factory.mktemp("finished")
    config = small_config(folder, tiny_zoo)
    with undrawn():  # of whichever module asks first
        assert main(["train", str(config)]) == 0
    return folder / "run", config


@pytest.fixture
def run(finished, tmp_path) -> tuple[Path, str]:
    """A copy of it, which a test may damage, and what trains it."""
    folder, config = finished
    shutil.copytree(folder, tmp_path / "run")
    saved = tmp_path / "run" / "config.yaml"
    settings = yaml.safe_load(saved.read_text())
    settings["run"]["dir"] = str(tmp_path)
    saved.write_text(yaml.safe_dump(settings, sort_keys=False))
    return tmp_path / "run", str(config)
