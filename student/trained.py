"""Which weights are trained, and for how long, where that is not all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def train_embeddings(model: Any) -> None:
    """Train a model's embedding and head, and low-rank updates where it has them.

    Args:
        model: a causal ``PreTrainedModel``, in place. What is trained becomes float32
            where there are updates, as these are: frozen weights may be narrower.
    """
    updated = bool(getattr(model, "peft_config", None))
    if not updated:
        model.requires_grad_(False)
    for part in (model.get_input_embeddings(), model.get_output_embeddings()):
        part.requires_grad_(True)
        if updated:
            part.float()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Give a module's parameters no gradient from what runs inside."""
    moving = [p for p in module.parameters() if p.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)
