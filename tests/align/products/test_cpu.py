import os
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch

from align.products import cpu


@pytest.fixture
def machine(monkeypatch):
    """A machine with AMX whose trial process ends as told; counts the trials."""

    def make(code):
        trials = []

        def run(command, **_):
            trials.append(command)
            return SimpleNamespace(returncode=code)

        monkeypatch.setattr(subprocess, "run", run)
        return trials

    monkeypatch.setattr(cpu, "_in_copy", lambda: None)
    monkeypatch.delenv(cpu.ISA, raising=False)
    monkeypatch.setattr(cpu, "_reports_amx", lambda: True)
    monkeypatch.setattr(cpu.torch.cuda, "is_available", lambda: False)
    cpu.avoid_broken_amx.cache_clear()
    yield make
    cpu.avoid_broken_amx.cache_clear()


def test_amx_that_kills_a_process_is_forbidden(machine):
    machine(-4)
    assert cpu.avoid_broken_amx()
    assert os.environ[cpu.ISA] == cpu.WITHOUT_AMX
    assert not cpu.bf16_pays()
    del os.environ[cpu.ISA]


@pytest.mark.parametrize("code", [0, 1])
def test_amx_that_works_or_was_not_reached_is_left_alone(machine, code):
    trials = machine(code)
    assert not cpu.avoid_broken_amx()
    assert len(trials) == 1
    assert cpu.bf16_pays()
    assert cpu.ISA not in os.environ


@pytest.mark.parametrize("code", [0, -4])
def test_what_a_copy_of_this_process_shows_needs_no_other(machine, monkeypatch, code):
    trials = machine(0)
    monkeypatch.setattr(cpu, "_in_copy", lambda: code)
    assert cpu.avoid_broken_amx() == (code < 0)
    assert not trials
    os.environ.pop(cpu.ISA, None)


def end_by(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda _: None, 0),  # its product is tried in earnest
        (lambda _: end_by(signal.SIGILL), -signal.SIGILL),
        (lambda _: 1 / 0, None),
        (lambda _: time.sleep(60), None),
    ],
    ids=["works", "dies", "fails", "is stuck"],
)
def test_a_copy_tells_how_it_ended_and_prints_nothing(monkeypatch, capfd, act, code):
    monkeypatch.setattr(cpu, "_PATIENCE", 0.1 if code is None else 20.0)
    monkeypatch.setattr(torch, "set_num_threads", act)
    assert cpu._in_copy() == code
    monkeypatch.undo()
    assert capfd.readouterr() == ("", "")


def test_where_nobody_may_wait_for_a_copy_nothing_is_learned():
    """As under a supervisor that ignores its children's ends."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert cpu._in_copy() is None
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_what_the_user_allows_stands(machine, monkeypatch):
    trials = machine(-4)
    monkeypatch.setenv(cpu.ISA, "AVX512_CORE_AMX")
    assert not cpu.avoid_broken_amx()
    assert not trials
