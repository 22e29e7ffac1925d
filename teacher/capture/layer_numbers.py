"""Number a model's layers, and name those that have no keys and values of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from align.errors import InputError
from teacher.capture.probe import AttentionLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_KINDS = ("layer_types", "layers_block_type")
"""What configs of models with several kinds of layers call the list of them."""
_UNKNOWN = "of unknown kind"


def layer_numbers(
    stack: PreTrainedModel, layers: Sequence[AttentionLayer]
) -> list[int]:
    """The number in the model, from 0, of each attention layer.

    Args:
        stack: what holds them.
        layers: in calling order.

    Raises:
        ValueError: some layers of the model do not attend, and nothing says which.
    """
    depth = _depth(stack)
    if depth in (None, len(layers)):
        return list(range(len(layers)))
    numbers = [getattr(layer.module, "layer_idx", None) for layer in layers]
    given = [n for n in numbers if isinstance(n, int) and n in range(depth or 0)]
    if len(set(given)) < len(layers):
        raise InputError(f"only {len(layers)} of its {depth} layers attend")
    return given


def without_kv(
    stack: PreTrainedModel, layers: Sequence[AttentionLayer], numbers: Sequence[int]
) -> dict[int, str]:
    """Say of each layer without keys and values of its own what it is.

    Args:
        stack: what holds the layers.
        layers: all that attend through the interface, in calling order.
        numbers: theirs in the model.

    Returns:
        Number in the model -> the config's word for it, or whose KV it reads.

    Raises:
        ValueError: a layer should attend but does not, or is of no known kind.
    """
    at = {layer.module: n for layer, n in zip(layers, numbers, strict=True)}
    without = {
        n: f"reads layer {at[layer.lender]}'s keys and values"
        for layer, n in zip(layers, numbers, strict=True)
        if layer.lender is not None
    }
    kinds = _kinds(stack)
    for number in set(range(_depth(stack) or 0)).difference(numbers):
        kind = kinds[number] if number < len(kinds) else _UNKNOWN
        attends = kind.endswith("attention") and "linear" not in kind
        if attends or kind == _UNKNOWN:
            raise InputError(
                f"only {len(layers)} of its {_depth(stack)} layers attend through "
                f"the interface; layer {number} is {kind} and does not"
            )
        without[number] = kind
    return dict(sorted(without.items()))


def _depth(stack: PreTrainedModel) -> int | None:
    config: Any = stack.config.get_text_config()
    if getattr(config, "is_encoder_decoder", False):
        return None  # one number would have to stand for two stacks
    depth: int | None = getattr(config, "num_hidden_layers", None)
    return depth


def _kinds(stack: PreTrainedModel) -> list[str]:
    config: Any = stack.config.get_text_config()
    lists = [getattr(config, name, None) for name in _KINDS]
    return next((list(kinds) for kinds in lists if kinds), [])
