"""A model of the same make from a changed config and changed weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from align.errors import InputError
from teacher.loading.fresh import fresh_model


def check_plain(model: nn.Module) -> None:
    """See that a model is a causal one of text alone, with weights as they are.

    Raises:
        InputError: it is not, and nothing can be made of it.
    """
    whole: Any = model
    config, kind = whole.config, type(model).__name__
    if config.get_text_config() is not config:
        raise InputError(
            f"{kind} reads more than text; students are made of models of text alone"
        )
    if not kind.endswith(("ForCausalLM", "LMHeadModel")):
        raise InputError(
            f"{kind} is no causal language model; students are made of those alone"
        )
    if getattr(whole, "is_quantized", False):
        raise InputError(
            f"the weights of {kind} are quantised already; give the model it was made "
            "from"
        )


def rebuilt(
    model: nn.Module, changes: Mapping[str, Any], state: Mapping[str, Tensor]
) -> Any:
    """Build a model as another's config says with some settings changed.

    Args:
        model: a causal ``PreTrainedModel``; it stays as it is.
        changes: settings of its config by name.
        state: every weight and buffer of the new model that a checkpoint holds.

    Returns:
        The new model, on the CPU, in evaluation mode, its generation settings those of
        the old one.

    Raises:
        InputError: the weights are not those of such a model.
    """
    whole: Any = model
    fields = whole.config.to_dict()
    renamed = getattr(type(whole.config), "attribute_map", {})
    fields |= {renamed.get(name, name): value for name, value in changes.items()}
    try:
        config = type(whole.config).from_dict(fields)
    except Exception as error:  # what a library checks has many types
        if not changes:
            raise
        settings = ", ".join(f"{name}={value}" for name, value in changes.items())
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise InputError(
            f"{type(model).__name__} cannot be built with {settings}: "
            f"{reason[0].strip()}"
        ) from error
    dtype = whole.get_input_embeddings().weight.dtype
    made = fresh_model(config, 0, dtype, False)
    try:
        made.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1:2] or [str(error)]
        raise InputError(
            f"{type(model).__name__} ({config.model_type}) cannot be cut: its parts "
            f"are not built by their numbers and sizes alone ({reason[0].strip()})"
        ) from error
    for name, parameter in made.named_parameters():
        if name in state and parameter.dtype != state[name].dtype:
            parameter.data = parameter.data.to(state[name].dtype)
    made.config.architectures = [type(made).__name__]
    made.generation_config = copy.deepcopy(whole.generation_config)
    return made.eval()
