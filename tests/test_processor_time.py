"""What a session says of its processor time."""

import subprocess
import sys

import pytest

from tests.processor_time import LISTED, said, servers, taken


def test_a_short_session_says_its_sum_alone():
    line = "processor time: 12 s, 9 s of them before the first test"
    assert said(12.4, 8.6, {"tests/a.py::b": 3.0}) == [line]


def test_a_long_one_names_its_dearest_tests_dearest_first():
    of_test = {f"tests/a.py::n{number}": float(number) for number in range(20)}
    lines = said(200.0, 9.0, of_test)[1:]
    assert len(lines) == LISTED
    assert lines[0].split() == ["19.0", "s", "tests/a.py::n19"]
    assert lines[-1].split() == ["10.0", "s", "tests/a.py::n10"]


WORKER = """
import os, sys, time
if not (child := os.fork()):
    while time.process_time() < 0.2:
        pass
    os._exit(0)
os.wait()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_what_a_server_has_others_do_counts_while_it_lives_and_once_after():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-S", "-E", "-c", WORKER]
    began = taken()
    with subprocess.Popen(command, text=True, **pipes) as server:
        assert server.stdout.readline() == "ready\n"
        assert taken() - began < 0.15
        servers.add(server.pid)
        living = taken() - began
        assert 0.18 < living < 1
    servers.remove(server.pid)
    assert living - 0.05 < taken() - began < living + 0.2
