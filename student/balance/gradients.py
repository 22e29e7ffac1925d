"""Gradients of terms to the student's captured tensors.

They cost a walk through each term alone, never through the student, and are all that
decides in which direction a term pulls: the gradient to any parameter is one linear map
of them, the same for all terms. So inner products of two terms bound those at the
parameters (Sener and Koltun 2018, section 3.3), and terms that meet the student in
different tensors, say keys and next tokens, neither help nor hinder each other here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from align.views import Captured

_CHAINED = ("hidden", "logits")
"""What keeps its place in the graph: logits are made of hidden states, and a term on
them pulls at hidden states through the head."""


def parted(captured: Captured) -> Captured:
    """The same numbers, each tensor a node of its own in the graph.

    What a model computes on goes on from its own tensors, so a term's gradient to one
    layer does not come back through the layers above.
    """
    changed = {
        field.name: _each(getattr(captured, field.name))
        for field in fields(captured)
        if field.name not in _CHAINED
    }
    return replace(captured, **changed)


def sources_of(captured: Captured) -> list[Tensor]:
    """The tensors at which gradients are looked at, of one parted capture."""
    sources: list[Tensor] = []
    for field in fields(captured):
        if field.name != "logits":
            _gather(getattr(captured, field.name), sources)
    return sources


def gram_of(values: Sequence[Tensor], sources: Sequence[Tensor]) -> Tensor:
    """Inner products of gradients.

    Args:
        values: N scalars; their graph is kept.
        sources: where the gradients are taken.

    Returns:
        (N, N) float64, where the values are; 0 of a value that reaches none of them.
    """
    size, device = len(values), values[0].device
    gram = torch.zeros(size, size, dtype=torch.float64, device=device)
    if not sources:
        return gram
    with torch.autocast(device.type, enabled=False):
        every = [_gradients(value, sources) for value in values]
        for i, left in enumerate(every):
            for j, right in enumerate(every[: i + 1]):
                product = sum(
                    (
                        _dot(a, b)
                        for a, b in zip(left, right, strict=True)
                        if a is not None and b is not None
                    ),
                    gram.new_zeros(()),
                )
                gram[i, j] = gram[j, i] = product
    return gram


def _gradients(value: Tensor, sources: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not value.requires_grad:
        return [None] * len(sources)
    return torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype in (torch.bfloat16, torch.float16):
        a, b = a.float(), b.float()
    return torch.dot(a.reshape(-1), b.reshape(-1)).double()


def _each(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.view_as(value) if value.requires_grad else value
    if isinstance(value, Mapping):
        return {key: _each(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_each(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _each(getattr(value, f.name)) for f in fields(value)}
        return replace(value, **parts)
    return value


def _gather(value: Any, sources: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        if value.requires_grad:
            sources.append(value)
    elif isinstance(value, Mapping):
        for part in value.values():
            _gather(part, sources)
    elif isinstance(value, list | tuple):
        for part in value:
            _gather(part, sources)
    elif is_dataclass(value):
        for field in fields(value):
            _gather(getattr(value, field.name), sources)
