"""AdamW with moments of a byte each, beside AdamW."""

import sys
from dataclasses import replace

import pytest
import torch

from student.config import TrainConfig
from student.loop.optimizer_state import build_optimizer

EIGHT = TrainConfig(
    steps=6, batch_size=2, engine="torch", log_every=1, optimizer="adamw_8bit"
)


def bytes_held(optimizer):
    held = [
        tensor.nbytes
        for state in optimizer.state.values()
        for name, tensor in state.items()
        if torch.is_tensor(tensor) and not name.startswith("qmap")  # one for all
    ]
    return sum(held)


def test_its_state_takes_about_a_quarter():
    torch.manual_seed(0)
    sizes = []
    for config in (EIGHT, replace(EIGHT, optimizer="adamw")):
        parameter = torch.nn.Parameter(torch.randn(300, 500))
        group = {"params": [parameter], "lr": 1e-3, "weight_decay": 0.01}
        optimizer = build_optimizer([group], config)
        parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        sizes.append(bytes_held(optimizer))
    assert 0.25 < sizes[0] / sizes[1] < 0.26


@pytest.mark.slow
def test_it_learns_as_adamw_does(run_alone):
    long = replace(EIGHT, steps=30, learning_rate=0.01)
    found, _ = run_alone(long)
    expected, _ = run_alone(replace(long, optimizer="adamw"))
    assert found != expected  # it is another optimiser
    assert found == pytest.approx(expected, rel=0.01)
    assert expected[-1] < 0.9 * expected[0]


def test_without_bitsandbytes_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"mtkd\[quant\].*or set train.optimizer=ada"):
        build_optimizer([], EIGHT)
