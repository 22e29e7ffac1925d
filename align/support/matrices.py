"""Which of a model's parameters are matrices between hidden states."""

from __future__ import annotations

from torch import nn


def hidden_matrices(model: nn.Module) -> set[int]:
    """Find the matrices inside a model's layers.

    Tables of embeddings are left out, and the language-model head, whose rows stand
    for tokens: what treats a matrix as one linear map is not meant for them.

    Args:
        model: of transformers, or any other.

    Returns:
        ``id`` of every such parameter.
    """
    tables = {
        id(table)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for table in module.parameters()
    }
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        tables |= {id(table) for table in head.parameters()}
    return {id(p) for p in model.parameters() if p.dim() == 2} - tables
