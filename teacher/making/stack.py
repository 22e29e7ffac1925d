"""Which of a model's layers stand where, and a model with some of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from align.errors import InputError
from teacher.making.rebuilt import check_plain, rebuilt

_BY_LAYER = (
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "no_rope_layers",
    "intermediate_size",
    "num_key_value_heads",
)
"""Settings that may be lists with an entry a layer."""
_BELOW = ("max_window_layers", "first_k_dense_replace")
"""Numbers of a layer from which on, counted from the bottom, layers are otherwise."""
_AT = ("mlp_only_layers",)
"""Lists of layers' numbers."""
_BY_NUMBER = {
    "num_kv_shared_layers": "upper layers read the keys and values of lower ones",
    "scale_attn_by_inverse_layer_idx": "attention is scaled by the layer's number",
}
"""Settings under which a layer is not the same at another place, and why."""


def depth_of(model: nn.Module) -> int:
    """How many layers a model has."""
    whole: Any = model
    return int(whole.config.num_hidden_layers)


def layer_stack(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """A model's layers, and under which name it holds them.

    Raises:
        InputError: they cannot be told from other parts.
    """
    depth = depth_of(model)
    stacks: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in stacks)
        if isinstance(module, nn.ModuleList) and len(module) == depth and not inside:
            stacks.append((name, module))
    if len(stacks) != 1:
        names = ", ".join(name for name, _ in stacks) or "none"
        raise InputError(
            f"{type(model).__name__} holds its {depth} layers in no list of its own "
            f"(lists of that length: {names}); students are not made of it by layers"
        )
    return stacks[0]


def with_layers(model: nn.Module, kept: Sequence[int]) -> Any:
    """A model with some layers of another, every other weight as it was.

    Args:
        model: a causal ``PreTrainedModel``; it stays as it is.
        kept: numbers of its layers from 0, ascending, none twice.

    Returns:
        The new model; with all layers kept its logits are the old one's, bit for bit.

    Raises:
        InputError: numbers that it has not, or layers that depend on their place.
    """
    check_plain(model)
    check_kept(kept, depth_of(model))
    name, _ = layer_stack(model)
    inside = re.compile(rf"{re.escape(name)}\.(\d+)\.(.+)")
    place = {layer: index for index, layer in enumerate(kept)}
    state = {}
    for key, tensor in model.state_dict().items():
        match = inside.fullmatch(key)
        if match is None:
            state[key] = tensor
        elif int(match[1]) in place:
            state[f"{name}.{place[int(match[1])]}.{match[2]}"] = tensor
    return rebuilt(model, _settings(model, kept), state)


def check_kept(
    kept: Sequence[int], depth: int | None = None, place: str = "keep"
) -> None:
    """Refuse layers that are not there, out of order or named twice.

    Args:
        kept: numbers of layers.
        depth: how many layers there are; None: that is not known yet.
        place: what gave them, for the error.

    Raises:
        InputError: names the place.
    """
    ascending = all(below < above for below, above in pairwise(kept))
    there = all(layer >= 0 and (depth is None or layer < depth) for layer in kept)
    if not kept or not ascending or not there:
        most = "on" if depth is None else f"to {depth - 1}"
        raise InputError(
            f"{place} is {list(kept)}; give numbers of layers from 0 {most}, at least "
            "one, ascending and none twice"
        )


def _settings(model: nn.Module, kept: Sequence[int]) -> dict[str, Any]:
    """What a config says with some of the layers."""
    whole: Any = model
    config, depth = whole.config, depth_of(model)
    changes: dict[str, Any] = {"num_hidden_layers": len(kept)}
    if len(kept) == depth:
        return changes
    for name, reason in _BY_NUMBER.items():
        if getattr(config, name, None):
            raise InputError(
                f"{type(model).__name__} has {name}={getattr(config, name)}: {reason}, "
                "so that a layer cannot be kept without the others"
            )
    for name in _BY_LAYER:
        entries = getattr(config, name, None)
        if isinstance(entries, list | tuple) and len(entries) == depth:
            changes[name] = [entries[layer] for layer in kept]
    for name in _BELOW:
        first = getattr(config, name, None)
        if isinstance(first, int):
            changes[name] = sum(layer < first for layer in kept)
    for name in _AT:
        layers = getattr(config, name, None)
        if layers:
            changes[name] = [i for i, layer in enumerate(kept) if layer in layers]
    return changes | _of_gpt_neo(config, kept)


def _of_gpt_neo(config: Any, kept: Sequence[int]) -> dict[str, Any]:
    """The kinds of attention of a family that counts them."""
    if not hasattr(config, "attention_types"):
        return {}
    kinds = [config.attention_layers[layer] for layer in kept]
    return {
        "attention_types": [[[kind], 1] for kind in kinds],
        "attention_layers": kinds,
    }
