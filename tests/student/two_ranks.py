"""What each of two processes of ``test_engine.py`` does: learn a line from a share."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from align.schedules import Timetable
from student.config import TrainConfig
from student.loop.data_order import sample_indices
from student.loop.engine import Engine


class Line(nn.Module):
    """Through nought; it learns to rise by three."""

    def __init__(self) -> None:
        super().__init__()
        self.timetable = Timetable()
        self.student = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.student.weight)

    def forward(self, x: Tensor) -> Tensor:
        """A number."""
        return (self.student(x) - 3 * x).square().mean()


def main(words: Sequence[str]) -> None:
    """Train six steps.

    Args:
        words: a folder that takes what each process found, as JSON.
    """
    config = TrainConfig(batch_size=2, grad_accum=1, zero_stage=1)
    engine = Engine(config)
    model, read = Line(), list[int]()
    with engine.prepared(model, config, 6) as prepared:
        for step in range(6):
            prepared.set_learning_rate(step)
            dealt = sample_indices(24, 0, step * 2 * engine.world_size, 2, engine.rank)
            read += dealt
            with prepared.accumulate():
                loss = prepared.module(torch.tensor([[float(i)] for i in dealt]))
                prepared.backward(loss)
                assert prepared.step()
    total = engine.sum([float(engine.rank), 2.0])
    result = {
        "rank": engine.rank,
        "world": engine.world_size,
        "main": engine.is_main,
        "read": read,
        "weight": float(model.student.weight),
        "total": total,
        "any": engine.any(engine.rank == 1),
        "none": engine.any(False),
    }
    (Path(words[0]) / f"{engine.rank}.json").write_text(json.dumps(result))
    engine.barrier()
    engine.close()
