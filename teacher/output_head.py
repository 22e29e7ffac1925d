"""A model's language-model head as the matrix that it is, if it is one."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch

from align.errors import InputError
from align.views import LinearHead
from teacher.capture.forward import evaluating
from teacher.capture.kv_capture import KVCapture

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENS = 8
"""Read to compare the matrix's logits with the model's."""


def linear_head(capture: KVCapture) -> LinearHead:
    """Find a head by which ``logits = hidden @ weight.T + bias``, and try it.

    Args:
        capture: of a causal language model.

    Returns:
        The model's own parameters, not copies.

    Raises:
        ValueError: the model predicts no next token, or its logits are not a linear
            function of its last hidden state (capped or scaled ones, for example).
    """
    name = type(capture.model).__name__
    if not capture.predicts:
        raise InputError(
            f"{name} captured as '{capture.which}' predicts no next token from what "
            "came before; only causal language models have an output to learn from"
        )
    module = capture.model.get_output_embeddings()
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if weight is None or not weight.is_floating_point() or weight.dim() != 2:
        raise InputError(
            f"{name} has a head of type {type(module).__name__} without a matrix of "
            "floating-point numbers; load it unquantised"
        )
    added = getattr(capture.model, "final_logits_bias", None)  # of BART, Marian
    if added is not None:
        bias = added.flatten() if bias is None else bias + added.flatten()
    head = LinearHead(weight, bias)
    _try(capture, head, name)
    return head


def vocabulary_size(capture: KVCapture) -> int:
    """V, the logits that a causal language model gives at a place."""
    module = capture.model.get_output_embeddings()
    size = getattr(module, "out_features", None)
    return int(module.weight.shape[0] if size is None else size)


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of every token with its id; equal ones speak the same vocabulary.

    Heads are rounded up to different sizes, so their sizes say nothing.
    """
    tokens = sorted((id_, token) for token, id_ in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()


@torch.no_grad()
def _try(capture: KVCapture, head: LinearHead, name: str) -> None:
    count = min(_TOKENS, capture.max_tokens or _TOKENS)
    ids = torch.arange(count, device=capture.device)[None] % head.size
    mask = torch.ones_like(ids, dtype=torch.bool)
    if capture.start is not None:  # a source of one token, and a target
        mask[:, 1] = False
    with evaluating(capture.model):
        captured = capture(ids, mask, layers=(0,), logits=True, hidden=True)
    assert captured.hidden is not None and captured.logits is not None
    after = slice(0 if capture.start is None else 2, None)  # sources have no logits
    hidden, logits = (x[:, after].double() for x in (captured.hidden, captured.logits))
    if hidden.shape[-1] != head.weight.shape[1]:
        raise InputError(
            f"{name} gives hidden states of width {hidden.shape[-1]}, but its head "
            f"takes {head.weight.shape[1]}: it is not applied to its last hidden state"
        )
    head_logits = hidden @ head.weight.double().T
    if head.bias is not None:
        head_logits = head_logits + head.bias.double()
    apart = (head_logits - logits).abs().max() / logits.abs().max().clamp_min(1e-12)
    if not float(apart) < 64 * torch.finfo(captured.logits.dtype).eps:
        raise InputError(
            f"{name}'s logits differ from hidden @ weight.T by {float(apart):.1%} of "
            "their largest: they are capped, scaled or masked after the head; such a "
            "model's output cannot be learned from, its keys and values can"
        )
