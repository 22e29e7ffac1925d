"""What is noted during one captured forward, and what is put in its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from align.captured import Injection
from teacher.attention_sites import noted_positions
from teacher.probe import AttentionLayer
from teacher.rotary import Positions


@dataclass(slots=True)
class Call:
    """One layer's attention call."""

    key: Tensor
    value: Tensor
    attended: Tensor  # keys after injection
    positions: Positions | None
    query: Tensor | None
    mask: Tensor | None
    options: dict[str, Any]


class Recording:
    """The listener of one forward."""

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        wanted: set[int],
        inject: Injection | None,
        queries: bool,
        enough: bool,
    ) -> None:
        """Prepare for one forward.

        Args:
            layers: what the probe found, in calling order.
            wanted: layers to note.
            inject: KV to put in place of the own.
            queries: also note queries, for attention rows.
            enough: end the forward at the last wanted layer.
        """
        self.calls: dict[int, Call] = {}
        self._wanted = wanted
        self._inject = inject
        self._queries = queries
        self._enough = enough
        self._grad = torch.is_grad_enabled()
        self._layers = layers
        self._pending: dict[nn.Module, list[int]] = {}
        for index, layer in enumerate(layers):
            self._pending.setdefault(layer.module, []).append(index)
        self._positions: dict[nn.Module, Positions | None] = {}

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note the rotary embedding of the layer about to run."""
        self._positions[module] = noted_positions(module, args, kwargs)

    def visit(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Note one call; answer with the keys and values to attend to."""
        if self._grad and not torch.is_grad_enabled():
            raise ValueError(
                f"{type(module).__name__} runs inside a re-entrant gradient "
                "checkpoint, which detaches its keys and values; enable gradient "
                "checkpointing with use_reentrant=False"
            )
        layer = self._pending[module].pop(0)  # one module may serve several layers
        positions = self._positions.get(module)
        attended, used = self._injected(layer, key, value, positions)
        if layer in self._wanted:
            self.calls[layer] = Call(
                key,
                value,
                attended,
                positions,
                query if self._queries else None,
                mask,
                options,
            )
            if self._enough and len(self.calls) == len(self._wanted):
                raise Enough
        return attended, used

    def _injected(
        self, layer: int, key: Tensor, value: Tensor, positions: Positions | None
    ) -> tuple[Tensor, Tensor]:
        inject = self._inject
        if inject is None or layer not in inject.layers:
            return key, value
        index = list(inject.layers).index(layer)
        k = inject.kv.k[index].to(key)
        v = inject.kv.v[index].to(value)
        rotation = self._layers[layer].rotation
        if rotation is not None:
            k = rotation.rotate(k, given_positions(positions, layer))
        gate = inject.gate[index].to(key)
        replaced = inject.mask[:, None, :, None]
        mixed_k = torch.where(replaced, (1 - gate) * key + gate * k, key)
        mixed_v = torch.where(replaced, (1 - gate) * value + gate * v, value)
        return mixed_k, mixed_v


class Enough(Exception):
    """Ends a forward of which nothing more is needed."""


def given_positions(positions: Positions | None, layer: int) -> Positions:
    """Insist on the cosines and sines that the probe saw this layer receive."""
    if positions is None:
        raise RuntimeError(f"layer {layer} was given no position_embeddings")
    return positions
