"""The visible self-check: it says what fails, and with its exit status too."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "test_multi_teacher.py"


def run_script(*words):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture
def table():
    path = ROOT / "scripts" / "checks" / "table.py"
    spec = importlib.util.spec_from_file_location("mtkd_checks_table", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_a_check_that_fails_is_shown_and_hides_no_other(table, capsys):
    def broken():
        table.close([1.0], [2.0])
        return "never"

    checks = [
        table.Check("align", "one is two", broken),
        table.Check("fuse", "one is one", lambda: "yes [indeed]"),
    ]
    assert table.run(checks) == 1
    shown = capsys.readouterr().out
    assert "FAILED" in shown and "Scalars are not close" not in shown
    assert "yes [indeed]" in shown
    assert "1 passed, 1 failed" in shown


def test_an_unknown_package_is_refused():
    done = run_script("fused")
    assert done.returncode == 2
    assert "no checks for 'fused'; give some of align, teacher" in done.stdout


def test_what_needs_no_model_passes():
    done = run_script("fuse", "names")
    assert done.returncode == 0, done.stdout
    assert ", 0 failed" in done.stdout


@pytest.mark.slow
def test_every_check_passes_and_every_package_has_one():
    done = run_script()
    assert done.returncode == 0, done.stdout
    for package in ("align", "teacher", "fuse", "student", "plugins", "experiments"):
        assert package in done.stdout


def test_help_says_what_can_be_checked():
    done = subprocess.run(
        [sys.executable, "scripts/test_multi_teacher.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "Packages: align, teacher, fuse, student, names." in done.stdout
