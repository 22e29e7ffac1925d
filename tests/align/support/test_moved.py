"""Earlier names of modules lead to the modules of today."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from align.support.moved import MOVED

ROOT = Path(__file__).parents[3]


def test_every_name_of_today_is_there_and_no_earlier_one_is_a_file():
    for earlier, now in MOVED.items():
        assert find_spec(now) is not None, now
        file = ROOT.joinpath(*earlier.split("."))
        assert not file.with_suffix(".py").exists(), earlier


@pytest.mark.parametrize(
    ("earlier", "name"),
    [
        ("align.output", "LinearHead"),
        ("align.captured", "Injection"),
        ("teacher.windows", "Windows"),
        ("student.calibrate", "calibrate"),
        ("experiments.settings", "ConfigError"),
        ("experiments.presets", "builtin_presets"),
        ("experiments.teacher_rule", "TeacherRule"),
    ],
)
def test_an_earlier_name_is_the_same_module_in_a_fresh_process(earlier, name):
    code = f"""
import importlib, warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    from {earlier} import {name} as before
now = importlib.import_module({MOVED[earlier]!r})
assert before is getattr(now, {name!r})
assert importlib.import_module({earlier!r}) is now
assert any({earlier!r} in str(warning.message) for warning in told)
assert now.__spec__.name == {MOVED[earlier]!r}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_name_that_never_was_is_still_not_found():
    code = """
for name in ("experiments.nothing", "align.nothing"):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        assert error.name == name
    else:
        raise AssertionError(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
