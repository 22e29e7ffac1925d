"""What a dry run's texts look like."""

import os

import pytest

from align.layer_map import LayerMap
from experiments.cli import main
from experiments.commands.dry_run import _alike, _in_words, _marked
from experiments.rehearsal.pieces import Piece
from student.loop.launch import LAUNCH_VARIABLES, without_launcher

MARK, END = Piece("<s>", True, False), Piece("</s>", True, True)
HE, LLO = Piece("he", False, True), Piece("l\nlo", False, True)


def test_tokens_stand_between_bars_and_what_is_not_learned_in_brackets():
    pieces = [MARK, MARK, HE, LLO, END]
    assert _marked(pieces, student=True).plain == "‹<s>│<s>│›he│l⏎lo│</s>│"
    assert _marked(pieces, student=False).plain == "‹<s>│<s>│›he│l⏎lo│‹</s>│›"


def test_teachers_that_cut_alike_share_a_row_and_the_student_has_its_own():
    cut = {"student": [HE], "a": [HE], "b": [LLO], "c": [HE]}
    rows = [(readers, list(pieces)) for readers, pieces in _alike(cut)]
    assert rows == [(["student"], [HE]), (["a", "c"], [HE]), (["b"], [LLO])]


def test_a_layer_map_is_one_line():
    layers = (((0, 1.0),), ((2, 0.25), (3, 0.75)), ((4, 0.5), (5, 0.5)))
    assert _in_words(LayerMap(layers)) == "0←0  1←2·0.25+3·0.75  2←4+5"


@pytest.mark.parametrize("look", ["--dry-run", "--check"])
def test_of_a_launchers_processes_the_first_alone_looks(look, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "no-such-config", look]) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert main(["train", "no-such-config", look]) == 2


def test_the_one_that_looks_waits_for_no_other(monkeypatch):
    launched = dict(
        zip(LAUNCH_VARIABLES, ("0", "2", "0", "host", "29500"), strict=True)
    )
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with without_launcher():
        assert not set(LAUNCH_VARIABLES) & set(os.environ)
        os.environ["RANK"] = "0"  # an engine's own, for one process
    assert {name: os.environ[name] for name in LAUNCH_VARIABLES} == launched
