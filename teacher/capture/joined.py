"""Learn by trying which linear layers make queries, keys and values in one.

Models join the three as they please: end to end (GPT-2, Phi-3) or by heads (GPT-NeoX).
What counts is which outputs of a layer reach which of the three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from align.support.matrices import lies_on_its_side, linear_layers, trained_weight
from teacher.capture.attention_sites import listening
from teacher.capture.forward import evaluating


class _Listener:
    """Splits the layers of each attention module at its first call."""

    def __init__(self) -> None:
        self.maps: dict[int, tuple[Tensor, ...]] = {}
        self._seen: set[nn.Module] = set()

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Look on."""

    def visit(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Follow query, key and value back to the module's own layers."""
        if module not in self._seen:  # a second call reads what the first one made
            self._seen.add(module)
            self._follow(module, (query, key, value))
        return key, value

    def _follow(self, module: nn.Module, made: tuple[Tensor, ...]) -> None:
        layers = [x for x in linear_layers(module) if x.weight.requires_grad]
        made = tuple(tensor for tensor in made if tensor.requires_grad)
        if not layers or not made:
            return
        reached = [_reached(layers, tensor) for tensor in made]
        for layer, *by_tensor in zip(layers, *reached, strict=True):
            maps = _alike(torch.stack(by_tensor))
            if len(maps) > 1:
                self.maps[id(trained_weight(layer))] = maps


def joined_maps(
    modules: list[nn.Module], forward: Callable[[], object], model: nn.Module
) -> dict[int, tuple[Tensor, ...]]:
    """Find the layers inside attention modules that join several maps.

    Args:
        modules: what attends.
        forward: runs the model over a few tokens that differ.
        model: evaluated meanwhile, and left as it was.

    Returns:
        By ``id`` of a trainable matrix that joins several maps, the outputs of each,
        (rows,) int64, in the order of their first ones.
    """
    listener = _Listener()
    with torch.enable_grad(), evaluating(model), listening(modules, listener):
        forward()
    return listener.maps


def _reached(layers: list[nn.Linear], tensor: Tensor) -> list[Tensor]:
    """(outputs,) bool of each layer: whether it has a part in the tensor."""
    drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    slopes = torch.autograd.grad(
        tensor,
        [trained_weight(layer) for layer in layers],
        # Drawn: the sum over a normalised head stays the same, whatever is changed.
        grad_outputs=drawn.to(tensor),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return [
        (slope.T if lies_on_its_side(layer) else slope).ne(0).any(dim=1)
        for layer, slope in zip(layers, slopes, strict=True)
    ]


def _alike(reached: Tensor) -> tuple[Tensor, ...]:
    """Group outputs, (made, outputs) bool, that reach the same."""
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for row, kind in enumerate(reached.T.tolist()):
        kinds.setdefault(tuple(kind), []).append(row)
    return tuple(torch.tensor(rows, device=reached.device) for rows in kinds.values())
