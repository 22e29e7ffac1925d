import os
import subprocess
from types import SimpleNamespace

import pytest

from align.support import cpu


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


def test_what_the_user_allows_stands(machine, monkeypatch):
    trials = machine(-4)
    monkeypatch.setenv(cpu.ISA, "AVX512_CORE_AMX")
    assert not cpu.avoid_broken_amx()
    assert not trials
