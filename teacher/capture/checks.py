"""What may be asked of a capture, and what to say where it may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from align.errors import InputError
from align.views import Capture, Injection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ModelCapture(Capture, Protocol):
    """A capture of one model, as far as its arguments depend on it."""

    model: PreTrainedModel
    which: str
    start: int | None

    @property
    def has_logits(self) -> bool:
        """Whether the model has a language-model head."""

    @property
    def max_tokens(self) -> int | None:
        """Longest T that is read, None where nothing limits it."""


def check_batch(ids: Tensor, mask: Tensor, capture: ModelCapture) -> None:
    """Check ids (B, T) int64 and mask (B, T) bool.

    Raises:
        ValueError: wrong shapes, a mask with gaps, or too many tokens.
    """
    if ids.ndim != 2 or not ids.numel():
        raise ValueError(
            f"ids have shape {tuple(ids.shape)}; give (B, T), B >= 1 and T >= 1"
        )
    if mask.shape != ids.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask is {mask.dtype} {tuple(mask.shape)}; give bool "
            f"{tuple(ids.shape)}, True on real tokens"
        )
    begins = (mask[:, 1:] & ~mask[:, :-1]).sum(1) + mask[:, 0]
    gaps = 0 if capture.start is None else 1  # between a source and its target
    if bool((begins > 1 + gaps).any()):
        row = int((begins > 1 + gaps).nonzero()[0])
        raise ValueError(
            f"mask[{row}] has padding between real tokens, so positions would be "
            "wrong; pad on one side"
        )
    limit, name = capture.max_tokens, type(capture.model).__name__
    if limit is not None and ids.shape[1] - gaps > limit:
        raise InputError(
            f"{name} has {limit} positions, but ids hold {ids.shape[1]} tokens; "
            f"truncate to max_length={limit}, or give KVCapture windows"
        )


def check_asked(
    layers: Sequence[int],
    *,
    logits: bool,
    hidden: bool,
    rows: Tensor | None,
    batch: int,
    capture: ModelCapture,
) -> None:
    """Check what a call wants to know.

    Raises:
        ValueError: the model does not have it.
    """
    name = type(capture.model).__name__
    wrong = [x for x in layers if not 0 <= x < capture.num_layers]
    needless = not layers and rows is None and (logits or hidden)
    if wrong or len(set(layers)) != len(layers) or not (layers or needless):
        raise ValueError(
            f"layers {list(layers)} of {name}: give one or more distinct layers in "
            f"0..{capture.num_layers - 1}, or none for logits or hidden states alone"
        )
    if logits and not capture.has_logits:
        raise ValueError(
            f"{name} captured as '{capture.which}' has no language-model head to give "
            "logits; leave logits=False or load it with one"
        )
    if capture.which == "cross" and (hidden or rows is not None):
        raise ValueError(
            "cross-attention is captured with a single decoder token, which has "
            "no hidden states or attention rows of use; capture 'decoder' instead"
        )
    if rows is not None and (rows.ndim != 2 or rows.shape[0] != batch):
        raise ValueError(
            f"attention_rows have shape {tuple(rows.shape)}; give (B, R) with "
            f"B = {batch}"
        )


def check_injection(inject: Injection, ids: Tensor, capture: Capture) -> None:
    """Check KV to be read in place of the own, for ids (B, T).

    Raises:
        ValueError: a layer the model lacks, or a wrong shape.
    """
    count = len(inject.layers)
    wrong = [x for x in inject.layers if not 0 <= x < capture.num_layers]
    if wrong or len(set(inject.layers)) != count:
        raise ValueError(
            f"inject.layers {list(inject.layers)}: give distinct layers in "
            f"0..{capture.num_layers - 1}"
        )
    tokens = (count, ids.shape[0], capture.num_kv_heads, ids.shape[1])
    expected = ((*tokens, capture.k_dim), (*tokens, capture.v_dim))
    shapes = (tuple(inject.kv.k.shape), tuple(inject.kv.v.shape))
    if shapes != expected:
        raise ValueError(
            f"inject.kv has shapes {shapes}; this model needs {expected}, one "
            "layer per entry of inject.layers"
        )
    if tuple(inject.gate.shape) != (count,):
        raise ValueError(
            f"inject.gate has shape {tuple(inject.gate.shape)}; give ({count},)"
        )
    if inject.mask.shape != ids.shape or inject.mask.dtype != torch.bool:
        raise ValueError(
            f"inject.mask is {inject.mask.dtype} {tuple(inject.mask.shape)}; "
            f"give bool {tuple(ids.shape)}"
        )
