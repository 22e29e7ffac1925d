"""Whether a process that was noted still runs, whoever has its number now."""

import subprocess
import sys

import pytest

from experiments.record import lease as module
from experiments.record.lease import runs, this_process


def test_this_process_runs_and_so_does_another():
    assert runs(this_process())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as other:
        noted = {**this_process(), "pid": other.pid}
        assert not runs(noted)  # it began at another time
        assert runs({**noted, "started": module._started(other.pid)})
        other.kill()
        other.wait()
        assert not runs({**noted, "started": None})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"started": "1"}, False),  # its number was given again
        ({"boot": "another"}, False),  # before a reboot
        ({"namespace": 1}, None),  # in another container
        ({"host": "elsewhere"}, None),
        ({"started": None}, False),  # an earlier version's: one's own number
        ({"boot": None, "namespace": None}, True),  # a system that tells neither
    ],
)
def test_what_was_noted_is_told_from_what_has_its_number_now(changes, expected):
    noted = this_process()
    if noted["boot"] is None or noted["namespace"] is None:
        pytest.skip("this system tells neither boots nor namespaces")
    assert runs({**noted, **changes}) is expected


def test_the_first_process_of_a_container_is_not_its_predecessor(monkeypatch):
    monkeypatch.setattr(module.os, "getpid", lambda: 1)
    noted = {**this_process(), "started": "17"}
    assert runs(noted) is False
    earlier = {"host": noted["host"], "pid": 1}
    assert runs(earlier) is False


def test_where_clocks_tell_the_start_they_may_differ_a_little():
    assert module._same(1000.0, 1001.5)
    assert not module._same(1000.0, 1003.0)
