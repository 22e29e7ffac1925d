"""Keys and values as transformers hands them out: ``past_key_values``.

A cache holds keys *after* rotation, and a sliding-window layer only the last of them.
Content keys of whole texts come from ``teacher.KVCapture`` or
``teacher.TeacherKVExtractor``; what is here is for callers who have a cache already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Layers = tuple[tuple[Tensor, Tensor], ...]
"""For every layer keys and values, (B, H, T, D) each; heads and sizes may differ."""


def is_cache(value: object) -> bool:
    """Whether this is a transformers ``Cache``, or a sequence of layers' pairs."""
    if hasattr(value, "layers") or hasattr(value, "self_attention_cache"):
        return True
    if not isinstance(value, (tuple, list)) or not value:
        return False
    return all(
        isinstance(layer, (tuple, list)) and layer and isinstance(layer[0], Tensor)
        for layer in value
    )


def cache_given(config: Any) -> dict[str, Any]:
    """What ``generate`` is to be given as a cache; nothing for causal models.

    Of an encoder-decoder transformers 5 makes as many layers as the encoder has, also
    where a T5's decoder has more; an empty cache grows as layers come.

    Args:
        config: the model's.
    """
    if not getattr(config, "is_encoder_decoder", False):
        return {}
    from transformers import DynamicCache, EncoderDecoderCache

    return {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}


def cache_layers(cache: Any) -> Layers:
    """Read keys and values out of a ``past_key_values`` of any kind.

    Args:
        cache: a transformers ``Cache`` such as ``DynamicCache``, or for every layer a
            (keys, values) pair of (B, H, T, D).

    Raises:
        ValueError: a layer is empty, is no such pair, or holds another number of tokens
            than the first; names it.
    """
    if hasattr(cache, "self_attention_cache"):
        raise ValueError(
            "past_key_values is of an encoder-decoder; give its self_attention_cache "
            "or its cross_attention_cache"
        )
    layers = _pairs(cache)
    for index, pair in enumerate(layers):
        if len(pair) < 2 or not all(
            isinstance(x, Tensor) and x.dim() == 4 for x in pair
        ):
            raise ValueError(
                f"past_key_values[{index}] holds no keys and values (B, H, T, D): "
                f"{_described(pair)}; give one pair a layer, or the Cache of a forward "
                "with use_cache=True"
            )
    if not layers:
        raise ValueError("past_key_values has no layers; run the model first")
    tokens = [keys.shape[2] for keys, _ in layers]
    for index, count in enumerate(tokens):
        if count != tokens[0]:
            raise ValueError(
                f"past_key_values[{index}] holds {count} tokens and the first layer "
                f"{tokens[0]}; a sliding window forgets: take the whole text's keys "
                "and values with teacher.KVCapture"
            )
    return tuple((keys, values) for keys, values in layers)


def _pairs(cache: Any) -> list[tuple[Any, ...]]:
    if not hasattr(cache, "layers"):
        return [tuple(layer[:2]) for layer in cache]
    return [
        (getattr(layer, "keys", None), getattr(layer, "values", None))
        for layer in cache.layers
    ]


def map_layers(cache: Any, change: Callable[[Tensor], Tensor]) -> Layers:
    """Change every tensor of a cache, heads joined for the time of it.

    Args:
        cache: see :func:`cache_layers`.
        change: maps (1, B, T, H * D) to (1, B, T', H * D).

    Returns:
        A (keys, values) pair a layer, each (B, H, T', D).
    """
    return tuple(
        (_joined(keys, change), _joined(values, change))
        for keys, values in cache_layers(cache)
    )


def _joined(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    heads, size = x.shape[1], x.shape[3]
    out = change(x.transpose(1, 2).flatten(2)[None])[0]
    return out.unflatten(2, (heads, size)).transpose(1, 2)


def _described(pair: Sequence[Any]) -> str:
    shapes = [
        str(tuple(x.shape)) if torch.is_tensor(x) else type(x).__name__ for x in pair
    ]
    return ", ".join(shapes) or "nothing"
