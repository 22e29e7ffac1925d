"""Learn by trying which modules of a model attend, in which order, and how.

A forward over a few tokens, in which every attention module reads the same vector at
all positions, so that whatever still differs is position encoding. The vector is drawn,
because the model's own may be 0 (the embedding of a padding token) and say nothing.
Attention modules are known by their classes' names; where another one attends, too, a
second forward has those read the vector that the first has found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from align.errors import InputError
from teacher.capture.attention_sites import listening, noted_positions
from teacher.capture.forward import evaluating
from teacher.capture.rotary import Positions, Rotation, find_rotation

PROBE_TOKENS = 8
"""Enough for slow rotary frequencies to show; few enough for any model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionLayer:
    """One attention call per forward."""

    module: nn.Module
    rotation: Rotation | None
    heads: int
    query_heads: int
    k_dim: int
    v_dim: int
    causal: bool
    lender: nn.Module | None = None
    """The module whose keys and values this one reads; None where they are its own."""


@dataclass(kw_only=True, slots=True)
class _Call:
    module: nn.Module
    query_heads: int
    key: Tensor
    value: Tensor
    causal: bool
    cross: bool
    lender: nn.Module | None
    positions: Positions | None


class NotFiniteError(InputError):
    """Keys or values overflow, whatever the architecture."""


class _Listener:
    """Collects calls, and levels the input of some modules."""

    def __init__(self, asked: Collection[nn.Module], *, attend: bool) -> None:
        self.asked, self._attend = asked, attend
        self.levelled: set[nn.Module] = set()
        """Those of them whose input was."""
        self.calls: list[_Call] = []
        self.positions: dict[nn.Module, Positions | None] = {}

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self.positions[module] = noted_positions(module, args, kwargs)
        if module not in self.asked:
            return None
        if self._is_states(kwargs.get("hidden_states")):
            self.levelled.add(module)
            level = _level(kwargs["hidden_states"])
            return args, {**kwargs, "hidden_states": level}
        if args and self._is_states(args[0]):
            self.levelled.add(module)
            return (_level(args[0]), *args[1:]), kwargs
        return None

    def _is_states(self, x: Any) -> bool:
        """Whether an input is hidden states: where a module is known by its name alone,
        it may read ids, positions or a mask."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return False
        return self._attend or x.dim() == 3

    def visit(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        self.calls.append(
            _Call(
                module=module,
                query_heads=query.shape[1],
                key=key,
                value=value,
                causal=_is_causal(module, mask, options),
                cross=query.shape[2] != key.shape[2],
                lender=next((c.module for c in self.calls if c.key is key), None),
                positions=self.positions.get(module),
            )
        )
        return key, value


def find_attention(
    model: nn.Module, forward: Callable[[], object], cross: bool
) -> list[AttentionLayer]:
    """Find the attention layers that a forward runs through.

    Args:
        model: searched for attention modules; left as it was.
        forward: runs the model on PROBE_TOKENS positions. Cross-attention is
            recognised by a query length other than the key length.
        cross: find cross-attention instead of self-attention.

    Returns:
        The layers in calling order; empty if nothing attends through the attention
        interface.

    Raises:
        NotFiniteError: keys or values are not finite.
        ValueError: a layer's rotation cannot be undone.
    """
    modules = list(model.modules())
    named = set() if cross else {m for m in modules if seems_to_attend(m)}
    listener = _Listener(named, attend=False)
    with torch.no_grad(), evaluating(model):
        calls = _calls(modules, listener, forward, cross)
        attending = dict.fromkeys(call.module for call in calls)
        if not cross and not attending.keys() <= listener.levelled:
            listener = _Listener(attending, attend=True)
            calls = _calls(list(attending), listener, forward, cross)
    for call in calls:
        _check_finite(call)
    return [_describe(c, rotates=not cross) for c in calls]


def seems_to_attend(module: nn.Module) -> bool:
    """Whether a module is attention, by what its class is called."""
    return re.search("attention|attn", type(module).__name__, re.IGNORECASE) is not None


def _calls(
    modules: Sequence[nn.Module],
    listener: _Listener,
    forward: Callable[[], object],
    cross: bool,
) -> list[_Call]:
    """The calls of one kind that a forward makes in some modules."""
    with listening(modules, listener):
        forward()
    return [call for call in listener.calls if call.cross == cross]


def _check_finite(call: _Call) -> None:
    if bool(call.key.isfinite().all() & call.value.isfinite().all()):
        return
    dtype = str(call.key.dtype).removeprefix("torch.")
    raise NotFiniteError(
        f"gives keys or values that are not finite in {dtype}, already on a probe of "
        f"{PROBE_TOKENS} tokens; load it in a wider dtype, such as float32, or check "
        "its weights"
    )


def _describe(call: _Call, rotates: bool) -> AttentionLayer:
    rotation = None
    if rotates and call.lender is None:
        rotation = find_rotation(call.module, call.key, call.positions)
    return AttentionLayer(
        module=call.module,
        rotation=rotation,
        heads=call.key.shape[1],
        query_heads=call.query_heads,
        k_dim=call.key.shape[3],
        v_dim=call.value.shape[3],
        causal=call.causal,
        lender=call.lender,
    )


def _level(x: Tensor) -> Tensor:
    drawn = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(0))
    return drawn.to(x).expand_as(x)


def _is_causal(module: nn.Module, mask: Tensor | None, options: dict[str, Any]) -> bool:
    if mask is not None:
        future = mask[..., 0, -1]  # may the first query read the last key?
        return not bool(
            future.any() if mask.dtype == torch.bool else (future == 0).any()
        )
    given = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)
