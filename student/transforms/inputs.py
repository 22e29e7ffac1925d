"""What a student's layers read of a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from align.tokens.batch import TokenBatch


@torch.no_grad()
def read_inputs(
    model: Any,
    layers: Iterable[Any],
    batches: Iterable[TokenBatch],
    take: Callable[[Any, Tensor], None],
) -> None:
    """Let a model read a sample, and take what enters its layers.

    Args:
        model: in evaluation mode.
        layers: linear ones of it.
        batches: the sample.
        take: of a layer and (N, in) its inputs at real tokens alone; once for each
            time the layer computes. A layer that knows no token from another, such as
            an expert, has all that it was given.
    """
    mask: Tensor | None = None

    def listen(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        fits = mask is not None and x.shape[:-1] == mask.shape
        take(layer, x[mask] if fits else x.flatten(0, -2))

    hooks = [layer.register_forward_pre_hook(listen) for layer in layers]
    try:
        for batch in batches:
            mask = batch.mask
            model(input_ids=batch.ids, attention_mask=mask.long(), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
