"""The sizes of models: from their ``config.json``, or known without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from align.sizes import Sizes
from teacher.loading.models import read_config

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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlannedModel:
    """What is known of a model by its ``config.json`` alone."""

    config: Any
    """Of transformers."""
    kind: str
    sizes: Sizes
    vocab: int
    query_heads: int

    @property
    def family(self) -> str:
        """The architecture, as transformers' ``model_type``."""
        return str(self.config.model_type)

    @property
    def causal(self) -> bool:
        """Whether a token's keys and values have read no later token."""
        return self.kind == "decoder"

    @property
    def predicts(self) -> bool:
        """Whether it says anything about the next token."""
        return self.causal

    @property
    def learned_positions(self) -> bool:
        """Of a table; a plan does not look at it."""
        return False


def planned_model(name: str) -> PlannedModel:
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
    sizes = Sizes(
        layers=int(text.num_hidden_layers),
        heads=int(getattr(text, "num_key_value_heads", None) or heads),
        k_dim=int(size),
        v_dim=int(size),
        hidden_size=int(text.hidden_size),
    )
    return PlannedModel(
        config=config,
        kind=kind,
        sizes=sizes,
        vocab=int(text.vocab_size),
        query_heads=heads,
    )


def _config_of(name: str) -> tuple[Any, str]:
    try:
        return read_config(name)
    except FileNotFoundError:
        if name not in PUBLISHED:
            raise
    from transformers import Qwen2Config

    return Qwen2Config(**PUBLISHED[name]), "decoder"
