"""What a transform costs: a step with it against the same step without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from align.schedules import Timetable
from experiments.bench.measure import Bar, paired_ratio
from student.transforms import TRANSFORMS, Moved, Transforms
from teacher.loading.models import load_model

MOST = 1.15
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "fake_quant, a scale a row": ("fake_quant", {}),
    "fake_quant, learned scales of 16": (
        "fake_quant",
        {"group": 16, "scales": "learned"},
    ),
    "block_sparse, 1x16": ("block_sparse", {}),
    "block_sparse, 2:4": ("block_sparse", {"block": "tensor_cores"}),
    "low_rank, between two looks": ("low_rank", {"every": 1_000_000}),
    "stochastic_depth": ("stochastic_depth", {}),
}


def bars(source: str, rounds: int, batch: int, tokens: int) -> list[Bar]:
    """Each transform's part of a step: forward, next-token loss, backward, AdamW.

    Nothing else is in it, no teacher and no measurement, so that a run's own share is
    smaller.

    Args:
        source: the model that is trained.
        rounds: pairs of steps.
        batch: texts of a step.
        tokens: of a text.
    """
    plain = _step(source, "", {}, batch, tokens)
    return [
        Bar(
            f"step with {name}",
            paired_ratio(_step(source, use, options, batch, tokens), plain, rounds),
            MOST,
        )
        for name, (use, options) in WAYS.items()
    ]


def _step(
    source: str, use: str, options: Mapping[str, Any], batch: int, tokens: int
) -> Callable[[], None]:
    model: Any = load_model(source, role="student").model.train()
    transforms = None
    if use:
        moved = {use: Moved(TRANSFORMS[use](**options), 1.0)}
        transforms = Transforms(model, moved, Timetable(1_000_000))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    rows = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(rows, (batch, tokens), generator=generator)
    taken = 0

    def step() -> None:
        nonlocal taken
        if transforms is not None:
            transforms.at(taken)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        taken += 1

    return step
