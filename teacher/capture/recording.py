"""What is noted during one captured forward, and what is put in its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from align.errors import InputError, RunError
from align.views import Injection
from teacher.capture.attention_rows import attention_rows, row_bias
from teacher.capture.attention_sites import noted_positions
from teacher.capture.probe import AttentionLayer
from teacher.capture.rotary import Positions, inverted


@dataclass(kw_only=True, slots=True)
class _Call:
    """One layer's attention call."""

    key: Tensor
    value: Tensor
    attended: Tensor  # keys after injection
    positions: Positions | None
    query: Tensor | None
    mask: Tensor | None
    options: dict[str, Any]


class Recording:
    """The listener of one forward.

    Without gradients each layer's content is written into its place at once, so that
    nothing but the asked KV outlives the layer. With gradients only references are
    kept, and :meth:`content` works them off: a layer under gradient checkpointing
    must save the same tensors in its forward and in its recomputation, and by the
    time of the recomputation nobody listens any more.
    """

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        wanted: Sequence[int],
        *,
        device: torch.device,
        inject: Injection | None = None,
        rows: Tensor | None = None,
        heads: bool = False,
        enough: bool = False,
    ) -> None:
        """Prepare for one forward.

        Args:
            layers: what the probe found, in calling order.
            wanted: distinct layers to note, in the order of the result.
            device: where the result is to lie.
            inject: KV to put in place of the own.
            rows: (B, R) int64 query positions whose attention to note.
            heads: note it head by head, too.
            enough: end the forward at the last wanted layer.
        """
        self._layers = layers
        self._place = {layer: place for place, layer in enumerate(wanted)}
        self._device = device
        self._inject = inject
        self._rows = rows
        self._heads = heads
        self._enough = enough
        self._grad = torch.is_grad_enabled()
        self._calls: dict[int, _Call] = {}
        self._done: set[int] = set()
        self._k: Tensor | None = None
        self._v: Tensor | None = None
        self._attention: dict[int, Tensor] = {}
        self._attention_heads: dict[int, Tensor] = {}
        self._inverses: dict[int, tuple[Positions, Positions]] = {}
        self._biases: dict[Any, tuple[Tensor | None, Tensor]] = {}
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
        if layer in self._place:
            asked = None if self._rows is None else query
            call = _Call(
                key=key,
                value=value,
                attended=attended,
                positions=positions,
                query=asked,
                mask=mask,
                options=options,
            )
            self._done.add(layer)
            if self._grad:
                self._calls[layer] = call
            else:
                self._write(layer, call)
            if self._enough and len(self._done) == len(self._place):
                raise Enough
        return attended, used

    def content(self) -> tuple[Tensor, Tensor]:
        """Content keys (L, B, H, T, D_k) and values (L, B, H, T, D_v) as asked.

        Raises:
            RuntimeError: an asked layer did not run.
        """
        missing = [layer for layer in self._place if layer not in self._done]
        if missing:
            raise RunError(
                f"layer {missing[0]} did not run; switch off what skips layers (for "
                "example config.layerdrop)"
            )
        if self._k is not None and self._v is not None:
            return self._k, self._v
        calls = [self._calls[layer] for layer in self._place]
        keys = [self._content_keys(x, self._calls[x]) for x in self._place]
        return (
            _stacked([key.to(self._device) for key in keys]),
            _stacked([call.value.to(self._device) for call in calls]),
        )

    def attention(self) -> Tensor | None:
        """(L, B, R, T) probabilities at the asked rows; None where none were asked."""
        if self._rows is None:
            return None
        for layer, call in self._calls.items():
            self._note_attention(layer, call)
        return torch.stack([self._attention[layer] for layer in self._place])

    def attention_heads(self) -> Tensor | None:
        """(L, H_q, B, R, T) of them head by head, likewise; after :meth:`attention`.

        Raises:
            InputError: layers have unlike numbers of heads.
        """
        if self._rows is None or not self._heads:
            return None
        layers = [self._attention_heads[layer] for layer in self._place]
        counts = {len(layer) for layer in layers}
        if len(counts) > 1:
            raise InputError(
                f"attention layers have {sorted(counts)} heads; compare their mean "
                "(loss.gamma_kl) instead of each head"
            )
        return torch.stack(layers)

    def _write(self, layer: int, call: _Call) -> None:
        place, count = self._place[layer], len(self._place)
        if self._k is None or self._v is None:
            key, value = call.key, call.value
            self._k = _room(count, key, self._device)
            self._v = _room(count, value, self._device)
        rotation = self._layers[layer].rotation
        if rotation is None:
            self._k[place].copy_(call.key)
        else:  # copies across devices where layers are spread over several
            rotation.undo(call.key, self._inverse(layer, call), out=self._k[place])
        self._v[place].copy_(call.value)
        if self._rows is not None:
            self._note_attention(layer, call)

    def _content_keys(self, layer: int, call: _Call) -> Tensor:
        rotation = self._layers[layer].rotation
        if rotation is None:
            return call.key
        return rotation.undo(call.key, self._inverse(layer, call))

    def _inverse(self, layer: int, call: _Call) -> Positions:
        """Worked out once for all layers that were handed the same positions."""
        positions = _given(call.positions, layer)
        inverse = self._inverses.get(id(positions[0]))
        if inverse is None:
            inverse = self._inverses[id(positions[0])] = positions, inverted(positions)
        return inverse[1]

    def _note_attention(self, layer: int, call: _Call) -> None:
        assert call.query is not None and self._rows is not None
        bias = self._bias(call, self._layers[layer].causal)
        heads = attention_rows(
            call.query, call.attended, bias, call.options, self._rows
        )
        self._attention[layer] = heads.mean(1)
        if self._heads:
            self._attention_heads[layer] = heads.transpose(0, 1)

    def _bias(self, call: _Call, causal: bool) -> Tensor:
        """Worked out once for all layers that were handed the same mask."""
        assert self._rows is not None
        tokens, window = call.attended.shape[2], call.options.get("sliding_window")
        key = (id(call.mask), tokens, causal, window)
        known_bias = self._biases.get(key)
        if known_bias is None:
            bias = row_bias(call.mask, self._rows, tokens, causal, window)
            known_bias = self._biases[key] = call.mask, bias
        return known_bias[1]

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
            k = rotation.rotate(k, _given(positions, layer))
        gate = inject.gate[index].to(key)
        replaced = inject.mask[:, None, :, None]
        mixed_k = torch.where(replaced, (1 - gate) * key + gate * k, key)
        mixed_v = torch.where(replaced, (1 - gate) * value + gate * v, value)
        return mixed_k, mixed_v


def _room(count: int, like: Tensor, device: torch.device) -> Tensor:
    """(count, B, H, T, D) for tensors (B, H, T, D), a token's heads side by side.

    Models compute them so, and :meth:`align.kv.KV.flat` then copies nothing.
    """
    batch, heads, tokens, size = like.shape
    shape = (count, batch, tokens, heads, size)
    return like.new_empty(shape, device=device).transpose(2, 3)


def _stacked(layers: Sequence[Tensor]) -> Tensor:
    """L of (B, H, T, D) -> (L, B, H, T, D), in memory as :func:`_room`."""
    return torch.stack([x.transpose(1, 2) for x in layers]).transpose(2, 3)


class Enough(Exception):
    """Ends a forward of which nothing more is needed."""


def _given(positions: Positions | None, layer: int) -> Positions:
    if positions is None:
        raise RuntimeError(f"layer {layer} was given no position_embeddings")
    return positions
