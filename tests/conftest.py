"""Fixtures shared by every test."""

import gc
import os
import re
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, settings

from align.products.cpu import avoid_broken_amx
from tests.processes import Processes, add_option
from tests.processor_time import NAME, ProcessorTime
from tests.root_logs import catch_at_root
from tests.warm import Nursery, nursery

for device in (torch.cuda, torch.xpu):
    # torch.manual_seed queues the same for devices that are not used, with a stack
    # trace each: a hundredth of what the tests took
    device.traceback = SimpleNamespace(format_stack=list)  # type: ignore[attr-defined]
avoid_broken_amx()  # tests multiply in bf16 without loading a model first
gc.disable()  # imports make a million objects and no garbage; see below

# `ci` makes up the same texts on every machine; `search` looks for new ones and takes
# longer: pytest --hypothesis-profile=search tests/align
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", settings.get_profile("ci"), derandomize=False)


_LONG = 0.02
"""Processor seconds of a search for garbage, among some hundred thousand objects."""

_searched: dict[str, float] = {"began": 0.0, "longest": 0.0}


def time_search(phase: str, info: dict[str, int]) -> None:
    """Note the longest search for garbage since libraries were last left out of it."""
    now = time.thread_time()  # a busy machine makes no search longer
    if phase == "start":
        _searched["began"] = now
    else:
        _searched["longest"] = max(_searched["longest"], now - _searched["began"])


def leave_libraries_out() -> None:
    """Keep a million objects of imported libraries out of every later search for
    garbage: accelerate searches after each phase of a run, half a second each time."""
    gc.collect()
    gc.freeze()
    _searched["longest"] = 0.0


def pytest_addoption(parser: pytest.Parser) -> None:
    add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ProcessorTime(), NAME)
    if (count := config.option.processes) > 1:
        config.pluginmanager.register(Processes(count))
    catch_at_root()


def pytest_collection_finish() -> None:
    gc.enable()
    gc.set_threshold(10_000, 20, 20)  # a test's own cycles are few
    leave_libraries_out()
    gc.callbacks.append(time_search)


def pytest_runtest_logfinish() -> None:
    if _searched["longest"] > _LONG:
        leave_libraries_out()


@pytest.fixture(scope="session", autouse=True)
def settings_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs are signed with a key of this session, and the user's own is left alone."""
    folder = tmp_path_factory.mktemp("settings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        yield


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    """What a test sets, the next one does not inherit: sums of other numbers of threads
    differ in their last bits."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


_FOLDERS: dict[str, list[Path]] = {}
"""By module, those that its tests were given; the first holds the others."""


@pytest.fixture
def tmp_path(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """As pytest's own, in a folder for each module: pytest looks among the folders of
    all tests before for a number that is free, which takes milliseconds a test."""
    module = request.node.nodeid.partition("::")[0]
    if module not in _FOLDERS:
        _FOLDERS[module] = [tmp_path_factory.mktemp(Path(module).stem)]
    name = re.sub(r"\W", "_", request.node.name)[:30]
    path = _FOLDERS[module][0] / f"{name}{len(_FOLDERS[module])}"
    path.mkdir(mode=0o700)
    _FOLDERS[module].append(path)
    return path


@pytest.fixture(scope="session")
def tiny_zoo(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders of a barely trained zoo by model name, built once for each environment.

    It lies in pytest's cache, or in the folder that ``MTKD_TEST_ZOO`` names, and is
    built again when a recipe changes; that the code still gives these weights, a test
    of tests/teacher/zoo/test_build.py sees.
    """
    from teacher.zoo import build_zoo

    known: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    named = os.environ.get("MTKD_TEST_ZOO")
    # what one version writes another need not read: `make test-lowest` has its own
    versions = "-".join(version(name) for name in ("torch", "transformers"))
    name = f"mtkd-zoo-{sys.version_info[0]}.{sys.version_info[1]}-{versions}"
    kept = known.mkdir(name) if known else tmp_path_factory.mktemp("zoo")
    return build_zoo(cache_dir=named or kept, progress=False, scale="tiny")


@pytest.fixture(scope="session")
def warm(tiny_zoo: dict[str, Path]) -> Iterator[Nursery]:
    """Starts processes that have imported what runs need; see tests/warm.py."""
    with nursery(tiny_zoo["student"].parent) as started:
        yield started
