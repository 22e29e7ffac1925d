"""What is noted of a launch, by how far it came."""

import pytest

from align.errors import InputError
from experiments.record.history import ATTEMPTS, attempts, noted
from experiments.record.lease import hold_run


def launched(run_dir, error=None, *, begun=True):
    """Launch once."""
    with hold_run(run_dir) as lease, noted(run_dir, lease, 1) as launch:
        if begun:
            (run_dir / "config.yaml").touch()
            launch.begun = True
        if error is not None:
            raise error


def ends(run_dir):
    return [(launch["how"], launch["why"]) for launch in attempts(run_dir)]


def test_a_launch_that_is_refused_leaves_no_trace_on_a_finished_run(tmp_path):
    launched(tmp_path)
    before = (tmp_path / ATTEMPTS).read_text()
    with pytest.raises(InputError):
        launched(tmp_path, InputError("train.steps is 3, the run had 2"), begun=False)
    assert (tmp_path / ATTEMPTS).read_text() == before
    assert ends(tmp_path) == [("finished", "")]


def test_a_folder_that_never_became_a_run_says_nothing(tmp_path):
    with pytest.raises(InputError):
        launched(tmp_path, InputError("no such teacher"), begun=False)
    assert not (tmp_path / ATTEMPTS).exists()


def test_what_ends_a_launch_that_had_begun_is_noted(tmp_path):
    launched(tmp_path)
    with pytest.raises(InputError):
        launched(tmp_path, InputError("the disk is full"))
    assert ends(tmp_path) == [("finished", ""), ("failed", "the disk is full")]


def test_why_an_unfinished_run_could_not_go_on_is_noted(tmp_path):
    with pytest.raises(InputError):
        launched(tmp_path, InputError("the disk is full"))
    with pytest.raises(InputError):
        launched(tmp_path, InputError("no such teacher"), begun=False)
    assert [why for _, why in ends(tmp_path)] == ["the disk is full", "no such teacher"]


def test_a_mistake_in_the_program_is_noted_whenever_it_comes(tmp_path):
    launched(tmp_path)
    with pytest.raises(ZeroDivisionError):
        launched(tmp_path, ZeroDivisionError("by 0"), begun=False)
    assert ends(tmp_path)[-1] == ("failed", "by 0")
