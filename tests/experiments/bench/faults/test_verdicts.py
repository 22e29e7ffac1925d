import os
from pathlib import Path

import pytest

from experiments.bench.faults.apart import Ending, run_apart
from experiments.bench.faults.verdicts import (
    CLEAR,
    HARMLESS,
    MENDED,
    NAMELESS,
    SILENT,
    differing,
    judge,
    names,
)

PLACE = Path("/bed/place")
FILE = PLACE / "run" / "phases" / "1-dual" / "complete.json"


def judged(code=0, err="", out="", same=False, restored=False):
    ending = Ending(code=code, out=out, err=err, seconds=0.0)
    return judge(ending, [FILE], PLACE, same=same, restored=restored)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (f"checkpoint marker {FILE} is damaged", True),
        ("checkpoint /bed/place/run/phases/1-dual is damaged: a is missing", True),
        ("delete '/bed/place/run/phases/1-dual', and go on", True),
        ("/bed/place/run/phases/2-routing is damaged", False),
        ("the run /bed/place/run cannot go on", False),
        ("complete.json is damaged", False),
        ("/bed/place/run/phases/1-dual/weights has another digest", True),
        ("/bed/place/run/phases/1-dual.settings.json is damaged", False),
    ],
)
def test_a_file_is_named_by_its_path_or_a_folder_below_the_run(said, named):
    assert names(said, FILE, PLACE) is named


def test_a_file_is_named_by_its_name_and_its_folder():
    said = "/bed/place/run holds no run: there is no config.yaml"
    assert names(said, PLACE / "run" / "config.yaml", PLACE)
    assert not names(said, PLACE / "run" / "state.json", PLACE)


def test_settings_are_named_by_the_phase_they_are_of():
    file = FILE.parent.with_name("1-dual.settings.json")
    assert names(f"{FILE.parent} belongs to another config", file, PLACE)


def test_an_error_is_clear_in_one_line_that_names_the_file():
    assert judged(2, f"mtkd: error: {FILE} is damaged") == CLEAR
    assert judged(2, f"mtkd: note\nmtkd: error: {FILE} is damaged") == CLEAR
    assert judged(2, "mtkd: error: something is damaged") == NAMELESS
    assert judged(2, "", out=f"{FILE}: another digest\n1 faults") == CLEAR
    assert judged(2, f"mtkd: error: {FILE}\nmtkd: error: {FILE}") == NAMELESS


@pytest.mark.parametrize("code", [1, -9, -6, 75])
def test_a_mistake_of_the_program_is_nameless_whatever_it_says(code):
    assert judged(code, f"{FILE} is damaged", same=True) == NAMELESS


def test_another_result_is_silent_unless_somebody_says_why():
    assert judged() == SILENT
    assert judged(err=f"warning: {FILE} is damaged and left out") == CLEAR
    assert judged(out=f'{{"damage": "{FILE} is damaged"}}') == CLEAR


def test_the_same_result_is_harmless_or_mended():
    assert judged(same=True) == HARMLESS
    assert judged(same=True, restored=True) == MENDED
    assert judged(err=f"warning: {FILE} is set aside", same=True) == MENDED


def test_what_only_one_side_has_differs():
    assert differing({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == ["a", "b", "c"]
    assert differing({"a": "1"}, {"a": "1"}) == []


def test_what_dies_or_raises_does_so_apart(tmp_path):
    def shout():
        print("before")
        raise ValueError("no")

    ending = run_apart(shout, tmp_path)
    assert (ending.code, ending.out) == (1, "before\n")
    assert "ValueError: no" in ending.err
    assert run_apart(lambda: 7, tmp_path).code == 7

    assert run_apart(lambda: os.kill(os.getpid(), 9), tmp_path).code == -9
