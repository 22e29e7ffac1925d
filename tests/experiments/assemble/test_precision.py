"""train.bf16=auto has one answer for all processes, and for a run's whole life."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import align.products.cpu
from experiments.assemble import precision
from experiments.assemble.precision import (
    answer_of_run,
    autocast_of,
    describe_precision,
    settle,
)
from experiments.config.presets import builtin_presets
from experiments.config.tree import load_config, resolve_phases
from student.config import TrainConfig
from tests.experiments.small_runs import said, small_config


@pytest.fixture
def hardware(monkeypatch):
    """Say what this process's hardware has."""

    def has(bf16):
        monkeypatch.setattr(precision, "hardware_has_bf16", lambda: bf16)

    return has


def processes(*have):
    """An engine whose processes have these; the main one answers as this one does."""
    return SimpleNamespace(
        gather=lambda mine: [mine, *have], from_main=lambda make: make(), is_main=True
    )


@pytest.mark.parametrize(
    ("gpu", "emulated", "tiles", "expected"),
    [
        (True, False, False, True),
        (True, True, True, False),
        (False, False, True, True),
        (False, False, False, False),
    ],
)
def test_hardware_has_bf16_where_it_is_faster(
    monkeypatch, gpu, emulated, tiles, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or not emulated,
    )
    monkeypatch.setattr(align.products.cpu, "avoid_broken_amx", lambda: False)
    monkeypatch.setattr(align.products.cpu, "bf16_pays", lambda: tiles)
    assert precision.hardware_has_bf16() is expected


def test_bf16_is_taken_where_every_process_has_it(hardware, tmp_path, capsys):
    hardware(True)
    assert answer_of_run(tmp_path, processes(True)) is True
    assert answer_of_run(tmp_path, processes(True, False)) is False
    hardware(False)
    assert answer_of_run(tmp_path, processes(True)) is False
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines] == ["bfloat16", "float32", "float32"]


@pytest.mark.parametrize(("began", "here"), [(True, False), (False, True)])
def test_a_run_goes_on_as_it_began_and_says_where_hardware_differs(
    hardware, tmp_path, capsys, began, here
):
    (tmp_path / "run.json").write_text(json.dumps({"id": "a", "bf16": began}))
    hardware(here)
    assert answer_of_run(tmp_path, processes(here)) is began
    warning = capsys.readouterr().err
    assert warning.startswith("warning: train.bf16=auto") and "run.name" in warning
    assert "warning" not in describe_precision(
        began, began
    ) and "as this run began" in describe_precision(here, here)


def test_every_auto_is_settled_and_what_was_said_stays():
    tree = {
        "teachers": {"a": {"model": "a"}, "b": {"model": "b"}},
        "phases": ["dual", "multi_basic"],
        "train": {"bf16": "auto"},
        "phase": {"dual": {"train": {"bf16": False}}, "all": {"train": {"steps": 3}}},
    }
    config = load_config(tree)
    phases = resolve_phases(config, builtin_presets())
    assert precision.asks_hardware(config, phases)
    settled, answered = settle(config, phases, True)
    assert [phase.train.bf16 for phase in answered] == [False, True]
    assert resolve_phases(settled, builtin_presets()) == answered
    assert not precision.asks_hardware(settled, answered)
    assert autocast_of(settled.train) is torch.bfloat16
    assert precision.products(answered) == "float32 and bfloat16"
    deeper = load_config(tree, ["phase.dual.train.bf16=auto", "train.bf16=false"])
    phases = resolve_phases(deeper, builtin_presets())
    settled, answered = settle(deeper, phases, True)
    assert [phase.train.bf16 for phase in answered] == [True, False]
    assert settled.phase["dual"]["train"] == {"bf16": True}


def test_what_nobody_settled_is_never_taken_for_an_answer():
    with pytest.raises(AssertionError):
        autocast_of(TrainConfig(bf16="auto"))
    with pytest.raises(ValueError, match="exclude each other"):
        TrainConfig(bf16="auto", fp16=True)
    with pytest.raises(ValueError, match="'yes'; give true or false or 'auto'"):
        replace(TrainConfig(), bf16="yes")


@pytest.mark.slow
def test_a_run_keeps_what_auto_came_to_and_refuses_another_precision(
    hardware, tiny_zoo, tmp_path, capsys
):
    changes = {"train": {"steps": 0, "bf16": "auto"}, "data": {"eval_samples": 1}}
    config, run = str(small_config(tmp_path, tiny_zoo, changes)), tmp_path / "run"
    hardware(True)
    assert said(["train", config], capsys)[0] == 0
    assert json.loads((run / "run.json").read_text())["bf16"] is True
    assert load_config(run / "config.yaml").train.bf16 is True
    hardware(False)
    assert said(["train", config], capsys)[0] == 0  # as it began
    code, message = said(["train", config, "train.bf16=false"], capsys)
    assert code == 2 and "train.bf16: stored True, config False" in message
