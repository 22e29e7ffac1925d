"""The part of a model that reads text, where it also has towers for something else."""

from __future__ import annotations

from typing import Any

from torch import nn

TEXT = "input_ids"
"""What transformers calls the input of a model that reads text."""


def text_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules a text can run through, by their dotted names in the model.

    A composite holds towers for pictures or sound beside its language model. They have
    attention, linear layers, rotations and position tables too, of which none says
    anything about text.

    Args:
        model: of transformers; any other module is taken for a reader of text.

    Returns:
        All modules of a model that reads text alone, the heads above its stacks
        included; of a composite those of its ``get_decoder()``. Either way without
        towers, which are models whose own input is no text.
    """
    whole: Any = model
    inside = {id(module) for module in _language_model(whole).modules()}
    for module in model.modules():
        if getattr(module, "main_input_name", TEXT) != TEXT:
            inside.difference_update(id(part) for part in module.modules())
    return {n: module for n, module in model.named_modules() if id(module) in inside}


def _language_model(model: Any) -> nn.Module:
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False):
        return model  # type: ignore[no-any-return]
    if not hasattr(config, "get_text_config") or config.get_text_config() is config:
        return model  # type: ignore[no-any-return]
    return model.get_decoder()  # type: ignore[no-any-return]
