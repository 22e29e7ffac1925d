"""Earlier names of modules lead to the modules of today."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from align.doors.moved import MOVED
from tests.fresh import answers, given

ROOT = Path(__file__).parents[3]


def test_every_name_of_today_is_there_and_no_earlier_one_is_a_file():
    for earlier, now in MOVED.items():
        assert find_spec(now) is not None, now
        file = ROOT.joinpath(*earlier.split("."))
        assert not file.with_suffix(".py").exists(), earlier


NAMES = [
    ("align.output", "LinearHead"),
    ("align.captured", "Injection"),
    ("teacher.windows", "Windows"),
    ("fuse.router", "LearnableRouter"),
    ("student.calibrate", "calibrate"),
    ("experiments.settings", "ConfigError"),
    ("experiments.presets", "builtin_presets"),
    ("experiments.teacher_rule", "TeacherRule"),
]
NEVER = ("experiments.nothing", "align.nothing")
ANSWER = """
import importlib, warnings

def answer(value):
    earlier, name, today = value
    if name is None:
        try:
            importlib.import_module(earlier)
        except ModuleNotFoundError as error:
            return error.name
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        before = getattr(__import__(earlier, fromlist=[name]), name)
    now = importlib.import_module(today)
    assert before is getattr(now, name)
    assert importlib.import_module(earlier) is now
    assert any(earlier in str(warning.message) for warning in told)
    return now.__spec__.name
"""


@pytest.fixture(scope="module")
def imported():
    """What each name leads to in a process that has imported nothing of ours."""
    values = [(earlier, name, MOVED[earlier]) for earlier, name in NAMES]
    values += [(name, None, None) for name in NEVER]
    return dict(zip([v[0] for v in values], answers(ANSWER, values), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("earlier", "name"), NAMES)
def test_an_earlier_name_is_the_same_module_in_a_fresh_process(imported, earlier, name):
    assert given(imported[earlier]) == MOVED[earlier]


@pytest.mark.slow
def test_a_name_that_never_was_is_still_not_found(imported):
    for name in NEVER:
        assert given(imported[name]) == name
