"""Which of a model's parameters are matrices of hidden states, how they lie, and what
parameters are called where a parametrization holds them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_HELD = re.compile(r"(?:(.*)\.)?parametrizations\.(\w+)\.(\w+)(\..*)?")


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How a parameter holds linear maps from one hidden state to another."""

    on_side: bool = False
    """Whether it is (in, out), as GPT-2's ``Conv1D`` has it, and not (out, in)."""
    maps: tuple[Tensor, ...] = ()
    """(rows,) int64 each: the outputs of every map that the parameter joins; empty
    where it is one map."""

    @property
    def is_one_map(self) -> bool:
        """Whether the parameter is a single map, (out, in), as it lies."""
        return not self.on_side and not self.maps

    def split(self, matrix: Tensor) -> list[Tensor]:
        """The maps of a parameter, or of what has its shape: copies, (out, in) each."""
        upright = matrix.T if self.on_side else matrix
        maps = [upright[rows] for rows in self.maps] or [upright.clone()]
        return [part.contiguous() for part in maps]

    def join(self, parts: list[Tensor], matrix: Tensor) -> None:
        """Write maps, as :meth:`split` gives them, back into a parameter."""
        upright = matrix.T if self.on_side else matrix
        if not self.maps:
            upright.copy_(parts[0])
        for rows, part in zip(self.maps, parts, strict=False):
            upright[rows] = part


def hidden_matrices(model: nn.Module) -> set[int]:
    """Find the matrices inside a model's layers.

    Tables of embeddings are left out, and the language-model head, whose rows stand
    for tokens: what treats a matrix as one linear map is not meant for them.

    Args:
        model: of transformers, or any other.

    Returns:
        ``id`` of every such parameter.
    """
    tables = {
        id(table)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for table in module.parameters()
    }
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        tables |= {id(table) for table in head.parameters()}
    return {id(p) for p in model.parameters() if p.dim() == 2} - tables


def layouts(
    model: nn.Module, joined: Mapping[int, tuple[Tensor, ...]]
) -> dict[int, Layout]:
    """How each linear layer's matrix lies.

    Args:
        model: of transformers, or any other.
        joined: by ``id`` of a matrix, the outputs of each map that it joins, where
            attention tells; see ``KVCapture.joined_maps``.

    Returns:
        By ``id`` of the matrix.
    """
    halves = _gated_halves(model)
    return {
        id(trained_weight(layer)): Layout(
            on_side=lies_on_its_side(layer),
            maps=joined.get(id(trained_weight(layer)))
            or halves.get(id(trained_weight(layer)), ()),
        )
        for layer in linear_layers(model)
    }


def linear_layers(model: nn.Module) -> Iterator[nn.Linear]:
    """Every ``nn.Linear`` and every ``Conv1D``, which has a ``weight`` as well."""
    for module in model.modules():
        if isinstance(module, nn.Linear) or lies_on_its_side(module):
            yield module  # type: ignore[misc]


def lies_on_its_side(module: nn.Module) -> bool:
    """Whether a module is transformers' ``Conv1D``, whose weight is (in, out)."""
    library = sys.modules.get("transformers.pytorch_utils")  # else there are none
    return library is not None and isinstance(module, library.Conv1D)


def trained_weight(layer: Any) -> Tensor:
    """A linear layer's parameter, also where a parametrization computes ``weight``."""
    held = getattr(layer, "parametrizations", {})
    weight: Tensor = held["weight"].original if "weight" in held else layer.weight
    return weight


def plain_name(name: str) -> str | None:
    """A parameter's or buffer's name without what ``torch.nn.utils.parametrize`` adds.

    Args:
        name: as ``named_parameters`` gives it.

    Returns:
        ``q_proj.weight`` of ``q_proj.parametrizations.weight.original``; None of what
        belongs to a parametrization and no checkpoint has.
    """
    match = _HELD.fullmatch(name)
    if match is None:
        return name
    layer, tensor, part, deeper = match.groups()
    if part != "original" or deeper:
        return None
    return f"{layer}.{tensor}" if layer else tensor


def plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """A model's parameters by the names in its checkpoints, as they are trained: not as
    a parametrization changes them."""
    named = ((plain_name(n), p) for n, p in model.named_parameters())
    return {name: parameter for name, parameter in named if name is not None}


def outputs_by_inputs(layer: nn.Linear) -> tuple[int, int]:
    """Sizes of a linear layer's output and input."""
    first, second = layer.weight.shape
    return (second, first) if lies_on_its_side(layer) else (first, second)


def _gated_halves(model: nn.Module) -> dict[int, tuple[Tensor, ...]]:
    """The outputs of gate and of input in each layer that joins the two.

    Known by their parent: of its two linear layers one gives twice what the other
    takes, as where half of it multiplies the other half. transformers keeps such halves
    end to end (``gate_up_proj`` of Phi-3 and GLM, ``Wi`` of ModernBERT).
    """
    halves = {}
    for parent in model.modules():
        layers = [x for x in parent.children() if x in set(linear_layers(parent))]
        if len(layers) != 2:
            continue
        for wide, narrow in (layers, layers[::-1]):
            (outputs, _), (_, inputs) = map(outputs_by_inputs, (wide, narrow))
            if outputs == 2 * inputs:
                rows = torch.arange(outputs, device=wide.weight.device)
                halves[id(trained_weight(wide))] = tuple(rows.chunk(2))
    return halves
