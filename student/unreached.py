"""Hold still what no loss of a text can reach."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PROBE_TOKENS = 2
"""Tokens of the text by which a model's reach is found."""


def freeze_unreached(model: Any) -> list[str]:
    """Take from training the parameters that a text's logits do not depend on.

    Towers for pictures, cross-attention to them, key projections of layers that read
    another layer's keys: no loss gives them a gradient, but an optimiser that counts
    these as zero would let weight decay shrink them step by step.

    Args:
        model: of transformers, one that predicts text, in place; what is frozen stays
            so.

    Returns:
        Names of what was frozen now, in the model's order.
    """
    ids = torch.zeros((1, PROBE_TOKENS), dtype=torch.int64, device=model.device)
    training = model.training
    model.eval()  # dropout would draw from the process's generator
    with torch.enable_grad():
        config = getattr(model, "config", None)
        both = getattr(config, "is_encoder_decoder", False)
        target = {"decoder_input_ids": ids} if both else {}
        output = model(input_ids=ids, use_cache=False, **target)
        reached = _reached(output.logits)
    model.train(training)
    reached |= _not_chosen(model, reached)
    frozen = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in reached:
            parameter.requires_grad_(False)
            frozen.append(name)
    return frozen


def _reached(output: Tensor) -> set[int]:
    """Identities of the leaves in a tensor's graph; no gradient is computed."""
    visited: set[Any] = set()
    leaves: set[int] = set()
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting += [earlier for earlier, _ in node.next_functions]
    return leaves


def _not_chosen(model: nn.Module, reached: set[int]) -> set[int]:
    """Parameters of experts that this text did not choose and others may.

    They stand in a list with others of their class which were reached.
    """
    experts: set[int] = set()
    for siblings in model.modules():
        if not isinstance(siblings, nn.ModuleList | nn.ModuleDict):
            continue
        held = {
            child: [id(parameter) for parameter in child.parameters()]
            for child in siblings.children()
        }
        chosen = {type(c) for c, inside in held.items() if reached & set(inside)}
        for child, inside in held.items():
            if type(child) in chosen and not reached & set(inside):
                experts.update(inside)
    return experts
