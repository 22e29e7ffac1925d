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


def test_what_fails_is_shown_and_hides_no_other(capsys):
    spec = importlib.util.spec_from_file_location("mtkd_self_check", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def broken():
        raise ValueError("1 is not 2")

    trials = [("one is two", broken), ("one is one", lambda: "yes")]
    assert script.show(iter(trials)) == 1
    shown = capsys.readouterr().out
    assert "one is two: ValueError: 1 is not 2" in shown
    assert "one is one: yes" in shown
    assert "1 passed, 1 failed" in shown


def test_an_unknown_part_is_refused():
    done = run_script("fused")
    assert done.returncode == 2
    assert "no part is called 'fused'; give some of contracts, zoo, phases" in (
        done.stdout
    )


@pytest.mark.slow
def test_everything_holds_here():
    done = run_script()
    assert done.returncode == 0, done.stdout + done.stderr
    for fact in ("every router keeps", "t5-mixed loads", "a run goes through"):
        assert fact in done.stdout


def test_help_says_what_can_be_tried():
    done = run_script("--help")
    assert done.returncode == 0
    assert "Parts: contracts, zoo, phases." in done.stdout
