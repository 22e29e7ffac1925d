"""The visible self-check: it says what fails, and with its exit status too."""

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


def test_what_fails_is_shown_and_hides_no_other(script, capsys):
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
def test_models_and_phases_hold_here(warm, tmp_path):
    log = tmp_path / "log.txt"
    process = warm.start("tests.warm:script", str(SCRIPT), "zoo", "phases", log=log)
    assert process.wait(timeout=280) == 0, log.read_text()
    for fact in ("t5-mixed loads", "a run goes through"):
        assert fact in log.read_text()


@pytest.mark.slow
def test_contracts_are_tried_kind_by_kind(script, capsys):
    """That each built-in keeps its own, tests/plugins/contracts/test_check.py sees."""
    from plugins.contracts.check import CONTRACTS

    trials = dict(script.contracts())
    facts = {f"every {kind.replace('_', ' ')} keeps its contract" for kind in CONTRACTS}
    assert facts == trials.keys()
    fact = "every layer map keeps its contract"
    assert script.show(iter([(fact, trials[fact])])) == 0
    assert "cka" in capsys.readouterr().out


def test_help_says_what_can_be_tried():
    done = run_script("--help")
    assert done.returncode == 0
    assert "Parts: contracts, zoo, phases." in done.stdout
