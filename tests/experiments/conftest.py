"""Fixtures for the experiments package."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config.phase_choice import PHASES, SINGLE_PHASE
from experiments.record.run_dir import RunDir, read_run
from tests.experiments.launched import Launched, Orphaned, launched, orphaned
from tests.experiments.synthetic import save_llama, save_tokenizer, write_run
from tests.read_once import weights_read_once
from tests.warm import Nursery

PRESETS = Path(__file__).parents[2] / "experiments" / "phases"


NO_PAGE = "<!doctype html>\n"
COARSE = {"savefig.dpi": 50}
"""Pictures of a ninth of a user's points, where nobody looks at single ones."""


@contextmanager
def undrawn(pages: bool = False) -> Iterator[None]:
    """Runs draw nothing, three quarters of what small ones take, and write no page for
    a browser beside their report, a tenth of the rest; ``pages``: they do."""
    with pytest.MonkeyPatch.context() as patch:
        drawn = "experiments.report.figures.draw_run"
        patch.setattr(drawn, lambda run, folder=None: [])
        meets = "experiments.report.alignment.draw_what_meets"
        patch.setattr(meets, lambda run: None)
        if not pages:
            page = "experiments.report.layout.html.html"
            patch.setattr(page, lambda document, folder: NO_PAGE)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Modules that say ``DRAWS = True`` draw and write pages, those that say
    ``PAGES = True`` write pages; the others do neither."""
    if getattr(request.module, "DRAWS", False):
        yield
        return
    with undrawn(getattr(request.module, "PAGES", False)):
        yield


@pytest.fixture(scope="module", autouse=True)
def few_texts_for_errors() -> Iterator[None]:
    """What an encoding costs is measured on some texts, not on as many as a user's:
    that takes most of a small extraction."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.extraction.encoding_error.SAMPLES", 4)
        yield


@cache
def _offered(places: tuple[str, ...], group: str) -> Any:
    return entry_points(group=group)


@pytest.fixture(scope="module", autouse=True)
def installed_plugins_looked_for_once() -> Iterator[None]:
    """A run reads the metadata of every package there is, a fiftieth of what it takes;
    nothing is installed meanwhile where these tests look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "plugins.discovery.entry_points",
            lambda group: _offered(tuple(sys.path), group),
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def weights_of_the_zoo_read_once(tiny_zoo: dict[str, Path]) -> Iterator[None]:
    """What a run loads of the zoo, which nobody changes."""
    with weights_read_once(tiny_zoo["student"].parent):
        yield


@pytest.fixture(scope="session")
def undisturbed(
    tiny_zoo: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, warm: Nursery
) -> Launched:
    """A run of two processes to its end; for slow tests."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return launched(folder, tiny_zoo["student"].parent, warm)


@pytest.fixture(scope="session")
def left_alone(
    tiny_zoo: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, warm: Nursery
) -> Orphaned:
    """The same, started as users do, whose launcher was killed, and that was started
    again at once; for slow tests."""
    folder = tmp_path_factory.mktemp("orphans")
    return orphaned(folder, tiny_zoo["student"].parent, warm)


@pytest.fixture(scope="session")
def presets() -> dict[str, Any]:
    """The built-in phases, as YAML holds them."""
    return {
        name: yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
        for name in (*PHASES, SINGLE_PHASE)
    }


@pytest.fixture
def made_up(tmp_path: Path) -> RunDir:
    """A finished run with made-up numbers."""
    return read_run(write_run(tmp_path / "made-up"))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, list[Path]]:
    """The made-up run with its pictures and pages, drawn once and coarsely, and what
    was drawn.

    For modules that say ``DRAWS = True``.
    """
    from matplotlib import rc_context

    from experiments.report import figures
    from experiments.report.page import write_report

    run = read_run(write_run(tmp_path_factory.mktemp("drawn") / "made-up"))
    draw, paths = figures.draw_run, []
    with rc_context(COARSE), pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_run", lambda run: paths.extend(draw(run)))
        write_report(run)
    return run, paths


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with random weights and a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    save_llama(folder)
    return folder


@pytest.fixture(scope="session")
def words_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that cuts at blanks."""
    folder = tmp_path_factory.mktemp("tokenizers") / "words"
    save_tokenizer(folder, "words")
    return folder
