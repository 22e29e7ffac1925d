"""AdamW with moments of a byte each, beside AdamW."""

import sys
from dataclasses import replace

import pytest
import torch

from student.config import TrainConfig
from student.loop.optimizer_state import build_optimizer
from student.loop.phase_checkpoint import Keeper, steps_kept
from student.loop.trainer import Job, train_phase
from tests.student.watching import Watching

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


@pytest.fixture
def run(school, start_engine, tmp_path):
    """Train a small student on text alone; its losses and weights."""

    def train(config, stop_at=None, folder=None):
        lesson = school.lesson(None)
        torch.manual_seed(0)
        lines = []
        job = Job(
            samples=school.samples[:16],
            encode=school.encode,
            views=None,
            steps=config.steps,
            seed=0,
            checkpoints=folder and Keeper(folder=folder),
            observer=Watching(lines, stop_at),
        )
        train_phase(lesson.distiller, start_engine(config), job, config)
        losses = [line["loss"] for line in lines if line["kind"] == "train"]
        return losses, dict(lesson.distiller.named_parameters())

    return train


def test_it_learns_as_adamw_does(run):
    long = replace(EIGHT, steps=30, learning_rate=0.01)
    found, _ = run(long)
    expected, _ = run(replace(long, optimizer="adamw"))
    assert found != expected  # it is another optimiser
    assert found == pytest.approx(expected, rel=0.01)
    assert expected[-1] < 0.9 * expected[0]


def test_a_stopped_and_resumed_phase_equals_an_undisturbed_one_bit_for_bit(
    run, tmp_path
):
    losses, expected = run(EIGHT)
    folder = tmp_path / "checkpoint"
    first, _ = run(EIGHT, stop_at=3, folder=folder)
    assert [step for step, _ in steps_kept(folder)] == [3]
    second, found = run(EIGHT, folder=folder)
    assert first + second == losses
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_deepspeed_without_zero_takes_the_same_steps_and_zero_is_refused(run):
    config = replace(EIGHT, engine="deepspeed", zero_stage=0, steps=3)
    found, _ = run(config)
    expected, _ = run(replace(EIGHT, steps=3))
    assert found == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"zero_stage=1 would cut; set train.zero_s"):
        replace(config, zero_stage=1)


def test_without_bitsandbytes_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"mtkd\[quant\].*or set train.optimizer=ada"):
        build_optimizer([], EIGHT)
