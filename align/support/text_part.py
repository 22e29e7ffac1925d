"""The part of a model that reads text, where it also has towers for something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from align.errors import InputError

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


def linear_in(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The linear layers among modules, by name, those of GPT-2's kind too."""
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    return {name: layer for name, layer in modules.items() if isinstance(layer, kinds)}


def named_layers(
    targets: Sequence[str],
    layers: Mapping[str, nn.Module],
    model: nn.Module,
    place: str,
) -> dict[str, nn.Module]:
    """Those of some layers whose dotted names end with one of some names.

    Args:
        targets: ends of names, such as ``q_proj``.
        layers: by name.
        model: theirs, for errors.
        place: the setting that names them, for errors.

    Raises:
        InputError: no layer is called so.
    """
    for target in targets:
        if not any(_ends(name, target) for name in layers):
            ends = sorted({name.rpartition(".")[2] for name in layers})
            raise InputError(
                f"{place} names {target!r}, but no linear layer of "
                f"{type(model).__name__} is called so; they are {', '.join(ends)}"
            )
    return {n: m for n, m in layers.items() if any(_ends(n, t) for t in targets)}


def _ends(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def _language_model(model: Any) -> nn.Module:
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False):
        return model  # type: ignore[no-any-return]
    if not hasattr(config, "get_text_config") or config.get_text_config() is config:
        return model  # type: ignore[no-any-return]
    return model.get_decoder()  # type: ignore[no-any-return]
