"""What a model's class and position table allow."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from align.errors import InputError
from align.support.text_part import text_modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUPPORTED = (
    "supported are models whose attention goes through transformers' attention "
    "interface, such as GPT-2, OPT, Llama, Mistral, Qwen, GPT-NeoX, Phi, Gemma, "
    "Cohere, GLM, BERT and T5"
)
_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?|pos_embed\w*)$")


def position_limit(model: nn.Module) -> int | None:
    """Length of a learned table of text positions; None where there is none.

    OPT and RoBERTa keep unused rows in front, as an ``offset`` or up to the
    padding index.
    """
    limits = []
    for name, module in text_modules(model).items():
        if isinstance(module, nn.Embedding) and _TABLE.search(name):
            skipped = int(getattr(module, "offset", 0))
            if module.padding_idx is not None:
                skipped += module.padding_idx + 1
            limits.append(module.weight.shape[0] - skipped)
    return min(limits, default=None)


def check_model(model: object) -> None:
    """Refuse what cannot be captured before touching it.

    Raises:
        TypeError: not a transformers model.
        ValueError: its attention does not go through the interface, or it has no
            weights.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"KVCapture needs a transformers PreTrainedModel, got "
            f"{type(model).__name__}; unwrap it first (for example .module)"
        )
    if not model._can_set_attn_implementation():
        raise unsupported(model, "its attention bypasses the attention interface")
    if model.device.type == "meta":
        raise InputError(
            f"{type(model).__name__} has no weights (device 'meta'); load it first"
        )


def unsupported(model: PreTrainedModel, why: str) -> InputError:
    """Say that a model's keys and values are out of reach, and what is not."""
    return InputError(f"{type(model).__name__} cannot be captured: {why}; {SUPPORTED}")
