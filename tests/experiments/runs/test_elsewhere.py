"""Whole runs on a device that is not the CPU: nothing is made on the wrong one."""

import json

import pytest
import torch
from accelerate.state import PartialState

from experiments import run_training
from experiments.config.tree import load_config
from student.loop import engine, launch
from teacher.capture import kv_capture
from tests.elsewhere import ELSEWHERE, There, WrongDeviceError, elsewhere
from tests.experiments.small_runs import DECODERS, small_config

CASES = {
    "dual": {"loss": {"relation_k": 0.1, "relation_v": 0.1, "smoothing": 0.1}},
    "routing": {
        "output": {"projected_kl": 1.0, "likelihood": 1.0},
        "loss": {"outcome_every": 1, "balance": "uncertainty"},
        "fuse": {"router_type": "attention"},
    },
}


@pytest.fixture
def runs_elsewhere(monkeypatch):
    """Runs by the torch engine whose device is that one."""
    start = launch.start_accelerate

    def started(*given):
        accelerator = start(*given)
        PartialState._shared_state["device"] = ELSEWHERE
        accelerator.state.device = ELSEWHERE
        return accelerator

    monkeypatch.setattr(engine, "start_accelerate", started)
    monkeypatch.setattr(kv_capture, "check_model", lambda model: None)  # refuses meta
    with elsewhere():
        yield


def test_what_a_gpu_refuses_is_refused_and_what_it_does_is_done():
    with elsewhere() as device:
        there = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
        assert isinstance(there, There) and there.device == device
        with pytest.raises(WrongDeviceError, match=r"of the CPU \[\(\(2,\), torch"):
            there + torch.ones(2)
        with pytest.raises(WrongDeviceError, match=r"take \.cpu\(\)"):
            there.numpy()
        assert (there * 2.0 + torch.tensor(1.0)).tolist() == [[3, 5], [7, 9]]
        assert there[torch.tensor([1])].sum().item() == 7
        assert torch.zeros_like(there).device == torch.ones(2, device=device).device
        assert type(there.cpu()) is torch.Tensor and there.cpu().numpy().sum() == 10
        layer = torch.nn.Linear(2, 1).to(device)
        layer(there).sum().backward()
        assert layer.weight.grad.tolist() == [[4, 6]]


@pytest.mark.slow
@pytest.mark.parametrize("phase", CASES)
def test_no_tensor_of_a_run_is_made_on_the_wrong_device(
    runs_elsewhere, tiny_zoo, tmp_path, phase
):
    changes = {
        "phases": [phase],
        "teachers": {name: {"model": str(tiny_zoo[name])} for name in DECODERS},
        "train": {"steps": 1, "prefetch": False},
        **CASES[phase],
    }
    run = run_training(load_config(small_config(tmp_path, tiny_zoo, changes)))
    # Whether its numbers are finite is not asked: by what lay in memory a gradient may
    # not be, on this device alone. A CPU's is, all that is made empty being NaN.
    assert json.loads((run / "state.json").read_text())["finished"]
