"""A prompt that is read at once, and tokens after it that are written one by one."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from align.errors import InputError
from student.evaluators.base import EvalContext, Subject


def drawn_prompt(ctx: EvalContext, batch: int, tokens: int, after: int) -> Tensor:
    """(batch, tokens) int64 ids drawn from the vocabulary.

    Args:
        ctx: whose seed and model.
        batch: texts.
        tokens: of each.
        after: tokens that are to be written after them.

    Raises:
        InputError: the model has fewer positions.
    """
    most = ctx.subject.max_tokens
    if most is not None and tokens + after > most:
        raise InputError(
            f"{ctx.subject.name} has {most} positions, fewer than {tokens} tokens of "
            f"the prompt and {after} after it; give fewer, as options prompt_tokens "
            "and new_tokens"
        )
    generator = torch.Generator().manual_seed(ctx.seed)
    rows = int(ctx.subject.model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(rows, (batch, tokens), generator=generator)
    return ids.to(ctx.device)


class Decoder:
    """A model that goes on with some texts of one length, as ``generate`` does."""

    def __init__(self, subject: Subject) -> None:
        """Hold a model."""
        self._model = subject.model
        takes = inspect.signature(subject.model.forward).parameters
        # As generate does: a large vocabulary at every position is memory for nothing.
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self.cache: Any = None
        """Keys and values of what was read."""

    @torch.no_grad()
    def read(self, ids: Tensor) -> Tensor:
        """(B, T) ids of a prompt or of the next token -> (B, 1) the likeliest next."""
        out = self._model(
            input_ids=ids, past_key_values=self.cache, use_cache=True, **self._last
        )
        self.cache = out.past_key_values
        return out.logits[:, -1].argmax(-1, keepdim=True)


def bytes_of(cache: Any) -> int:
    """Of a cache's keys and values."""
    return sum(x.numel() * x.element_size() for x in _tensors(cache))


def _tensors(cache: Any) -> Iterable[Tensor]:
    for layer in getattr(cache, "layers", None) or cache:
        held = layer if isinstance(layer, tuple) else (layer.keys, layer.values)
        yield from (x for x in held if isinstance(x, Tensor))
