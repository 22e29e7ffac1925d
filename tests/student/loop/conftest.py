"""A small student that trains without teachers."""

import pytest
import torch

from student.loop.phase_checkpoint import Keeper
from student.loop.trainer import Job, train_phase
from tests.student.watching import Watching


@pytest.fixture
def run_alone(school, start_engine):
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
