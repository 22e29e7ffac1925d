"""A model of the same make with weights nobody has trained."""

from __future__ import annotations

from typing import Any

import torch


def fresh_model(
    config: Any, seed: int, dtype: torch.dtype, trust_code: bool, **options: Any
) -> Any:
    """Draw a language model's weights anew, as its own library does.

    Args:
        config: its transformers config.
        seed: decides every weight; the generators of the process stay as they were.
        dtype: of the weights.
        trust_code: run Python files that come with the model.
        options: more of ``from_config``, such as ``attn_implementation``.

    Source:
        transformers' ``from_config``, hence the architecture's ``_init_weights``.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of weights that are not these
    both = getattr(config, "is_encoder_decoder", False)
    auto = AutoModelForSeq2SeqLM if both else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):  # the weights are drawn on the CPU
        torch.manual_seed(seed)
        return auto.from_config(
            config, dtype=dtype, trust_remote_code=trust_code, **options
        )
