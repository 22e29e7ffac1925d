"""Lines of a plan of memory, and what a model's weights take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from align.products.cpu import pays
from experiments.estimate.shapes import PlannedModel
from experiments.estimate.steps import FLOAT
from teacher.loading.quantise import BLOCK, OUTER_BLOCK, QuantisedLinear


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that takes memory."""

    of: str
    """``student``, a teacher's name, or ``both`` of student and teachers."""
    what: str
    size: int
    """Bytes."""


def held_as(model: nn.Module, kind: str, dtype: str) -> dict[str, int]:
    """Bytes of a skeleton's weights, by how they are held."""
    quantised = [m for m in model.modules() if isinstance(m, QuantisedLinear)]
    numbers = sum(m.weight.numel() for m in quantised)
    if kind == "int4":
        blocks = numbers // BLOCK
        codes = numbers // 2 + blocks + FLOAT * blocks // OUTER_BLOCK
    else:
        codes = numbers + FLOAT * sum(m.out_features for m in quantised)
    inside = {id(m.weight) for m in quantised} | {id(m.scale) for m in quantised}
    rest, updates = 0, 0
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            updates += parameter.nbytes
        elif id(parameter) not in inside:
            rest += parameter.nbytes
    whole = "embeddings, head and norms" if quantised else "weights"
    return {
        f"linear layers, {kind}": codes,
        f"{whole}, {dtype}": rest,
        "low-rank updates, float32": updates,
    }


def dtype_of(asked: str, model: PlannedModel, device: str) -> torch.dtype:
    """The type a teacher calculates in; ``auto`` is the checkpoint's.

    On a CPU that has no products of it this is float32, as the run has it.
    """
    if asked == "auto":
        asked = str(getattr(model.config, "dtype", None) or "float32")
    torch_dtype = getattr(torch, asked.removeprefix("torch."))
    assert isinstance(torch_dtype, torch.dtype)
    return torch_dtype if device != "cpu" or pays(torch_dtype) else torch.float32


def numbers_of(module: nn.Module) -> int:
    """Of all parameters."""
    return sum(p.numel() for p in module.parameters())
