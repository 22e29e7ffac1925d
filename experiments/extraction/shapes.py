"""The sizes of models: from their ``config.json``, or known without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from align.sizes import Sizes
from teacher.models import read_config

_QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "dtype": "bfloat16",
    "num_hidden_layers": 28,
}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "Qwen/Qwen2.5-1.5B": {
        **_QWEN,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-7B": {
        **_QWEN,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
}
"""What two models' files say, for a plan on a machine that has neither."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What a plan asks of a model; stands in for a capture."""

    config: Any
    """Of transformers."""
    kind: str
    num_layers: int
    hidden_size: int
    vocab: int
    num_heads: int
    num_kv_heads: int
    k_dim: int
    v_dim: int
    causal: bool
    has_logits: bool

    @property
    def sizes(self) -> Sizes:
        """All of these."""
        return Sizes(
            layers=self.num_layers,
            heads=self.num_kv_heads,
            k_dim=self.k_dim,
            v_dim=self.v_dim,
            hidden_size=self.hidden_size,
        )

    max_tokens: int | None = None
    """Of a table of positions; a plan does not look at it."""


def shape_of(name: str) -> Shape:
    """Read a model's sizes.

    Args:
        name: a folder with a ``config.json``, a hub name of which this machine has one,
            or a name in ``PUBLISHED``.

    Raises:
        FileNotFoundError: none of these.
        ValueError: the config cannot be used.
    """
    config, kind = _config_of(name)
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    size = getattr(text, "head_dim", None) or int(text.hidden_size) // heads
    return Shape(
        config,
        kind,
        int(text.num_hidden_layers),
        int(text.hidden_size),
        int(text.vocab_size),
        heads,
        int(getattr(text, "num_key_value_heads", None) or heads),
        int(size),
        int(size),
        kind == "decoder",
        kind == "decoder",
    )


def _config_of(name: str) -> tuple[Any, str]:
    try:
        return read_config(name)
    except FileNotFoundError:
        if name not in PUBLISHED:
            raise
    from transformers import Qwen2Config

    return Qwen2Config(**PUBLISHED[name]), "decoder"
