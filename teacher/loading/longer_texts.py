"""Let a rotary teacher read texts longer than it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from align.rope_scale import Rescale, scaled_frequencies
from align.support.text_part import text_modules


def trained_length(model: nn.Module) -> int | None:
    """Tokens a rotary model was trained to read; None where it has no rotation.

    Models with scaled rotation (llama3, YaRN, …) reach their full length already.
    """
    if not list(_rotary(model)):
        return None
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):  # composites keep it one level down
        config = config.get_text_config()
    length = getattr(config, "max_position_embeddings", None)
    return None if length is None else int(length)


def extend_context(
    model: nn.Module, tokens: int, scale_base: Rescale, linear: bool = False
) -> bool:
    """Slow a model's rotation down so that it covers ``tokens`` positions.

    Content keys do not depend on the base; what changes is how the teacher itself
    reads beyond its trained length.

    Args:
        model: a transformers model; its frequencies are replaced in place.
        tokens: the longest text to be read.
        scale_base: a rope scaler; see :func:`align.rope_scale.scaled_base`.
        linear: also divide all frequencies by the scale; see
            :func:`align.rope_scale.scaled_frequencies`.

    Returns:
        Whether anything was changed; False for models that are long enough, or
        have no plain rotation.

    Source:
        ``align.rope_scale.scaled_frequencies``, with scale = tokens / trained length.
    """
    trained = trained_length(model)
    if trained is None or tokens <= trained:
        return False
    changed = False
    for module, frequencies, name in _rotary(model):
        width = 2 * frequencies.shape[0]
        old = float(frequencies[-1]) ** (-width / max(width - 2, 1))
        scale = tokens / trained
        if linear or scale_base(old, width, scale) != old:
            scaled = scaled_frequencies(old, width, scale, scale_base, linear)
            with torch.no_grad():
                frequencies.copy_(scaled)
            original = getattr(module, name.replace("inv_freq", "original_inv_freq"), 0)
            if isinstance(original, Tensor):
                original.copy_(frequencies)
            changed = True
    return changed


def _rotary(model: nn.Module) -> Iterator[tuple[nn.Module, Tensor, str]]:
    """Plain rotary tables: module, inverse frequencies (R / 2,), buffer name."""
    for module in text_modules(model).values():
        kinds = getattr(module, "rope_type", None)
        for name, buffer in module.named_buffers(recurse=False):
            if not name.endswith("inv_freq") or name.endswith("original_inv_freq"):
                continue
            layer_type = name.removesuffix("inv_freq").rstrip("_")
            kind = kinds.get(layer_type) if isinstance(kinds, dict) else kinds
            if kind in (None, "default") and buffer.dim() == 1 and len(buffer) > 1:
                yield module, buffer, name
