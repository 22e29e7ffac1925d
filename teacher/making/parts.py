"""Which of a model's weights read and write its heads, channels and residual stream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from align.errors import InputError
from teacher.making.stack import layer_stack


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedForward:
    """The linear layers of one family's feed-forward."""

    up: tuple[str, ...]
    """Ends of the names of those that write channels."""
    down: str
    """Of that which reads them."""
    setting: str
    """Of the config: how many there are."""
    blocks: int = 1
    """Parts of equal size that one of ``up`` holds, one after the other."""


FEED_FORWARD = (
    FeedForward(
        up=("mlp.gate_proj", "mlp.up_proj"),
        down="mlp.down_proj",
        setting="intermediate_size",
    ),
    FeedForward(
        up=("mlp.gate_up_proj",),
        down="mlp.down_proj",
        setting="intermediate_size",
        blocks=2,
    ),
    FeedForward(
        up=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        setting="intermediate_size",
    ),
    FeedForward(up=("mlp.fc1",), down="mlp.fc2", setting="intermediate_size"),
    FeedForward(up=("mlp.c_fc",), down="mlp.c_proj", setting="n_inner"),
    FeedForward(up=("fc1",), down="fc2", setting="ffn_dim"),
)
"""Those that can be cut; experts of a mixture are none of them."""
QUERY, KEY, VALUE = (f"self_attn.{name}_proj" for name in "qkv")
OUT = "self_attn.o_proj"
"""Ends of names of the attention that can be cut: projections apart from each other."""
_NORMS = re.compile(r"(input|post_attention|post_mlp)_layernorm")
"""Names in a layer of norms over the residual stream."""


def feed_forward(model: nn.Module) -> FeedForward:
    """How a model's feed-forward is built.

    Raises:
        InputError: in no way that can be cut.
    """
    _, stack = layer_stack(model)
    for row in FEED_FORWARD:
        wanted = {*row.up, row.down}
        if all(wanted <= {n for n, _ in layer.named_modules()} for layer in stack):
            return row
    raise InputError(
        f"{type(model).__name__} has no feed-forward whose channels can be cut (one in "
        "every layer, no mixture of experts); leave channels=0"
    )


def check_attention(model: nn.Module, what: str) -> None:
    """See that heads lie apart and are normed, if at all, one by one.

    Raises:
        InputError: they do not, and ``what`` cannot be cut.
    """
    whole: Any = model
    _, stack = layer_stack(model)
    size = head_size(whole.config)
    for layer in stack:
        parts: dict[str, Any] = dict(layer.named_modules())
        reason = ""
        if not {QUERY, KEY, VALUE, OUT} <= parts.keys():
            reason = "its projections of queries, keys and values are one"
        for name, part in parts.items():
            if name.endswith(("q_norm", "k_norm")) and part.weight.shape != (size,):
                reason = "its heads are normed together"
        if reason:
            raise InputError(
                f"{type(model).__name__} cannot be cut by {what}: {reason}; leave "
                f"{what}=0, and cut layers or channels"
            )


def check_stream(model: nn.Module) -> None:
    """See that the residual stream can be made narrower.

    Raises:
        InputError: norms are not root mean squares without a scale of the width, or
            there are parts that are not known.
    """
    check_attention(model, "hidden")
    row = feed_forward(model)
    known = {QUERY, KEY, VALUE, OUT, *row.up, row.down}
    _, stack = layer_stack(model)
    whole: Any = model
    plain = whole.config.model_type in ("llama", "mistral", "qwen2", "qwen3", "smollm3")
    for layer in stack:
        for name, part in layer.named_modules():
            weighty = any(True for _ in part.parameters(recurse=False))
            inside = name in known or _NORMS.fullmatch(name)
            if weighty and not inside and not name.endswith(("q_norm", "k_norm")):
                plain = False
    if not plain:
        raise InputError(
            f"{type(model).__name__} cannot be cut by hidden: its norms or embeddings "
            "depend on the width in other ways than a root mean square does; leave "
            "hidden=0, and cut layers, groups or channels"
        )


def norms(model: nn.Module) -> Iterator[str]:
    """Names of the norms over the residual stream, the last one's included."""
    name, stack = layer_stack(model)
    for index, layer in enumerate(stack):
        for inside, _ in layer.named_modules():
            if _NORMS.fullmatch(inside):
                yield f"{name}.{index}.{inside}"
    yield f"{name.rpartition('.')[0]}.norm"


def head_size(config: Any) -> int:
    """Entries of one head."""
    size = getattr(config, "head_dim", None)
    return int(size or config.hidden_size // config.num_attention_heads)


def key_value_heads(config: Any) -> int:
    """Heads of keys and values."""
    heads = getattr(config, "num_key_value_heads", None)
    return int(heads or config.num_attention_heads)
