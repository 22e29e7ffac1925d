"""Put a padded batch to a model, whichever of its stacks is captured."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WHICH = ("auto", "self", "encoder", "decoder", "cross")


class Forward:
    """One way of running a model.

    Args:
        model: a transformers model.
        which: "self", "encoder", "decoder" or "cross"; see :func:`resolve_which`.
    """

    def __init__(self, model: PreTrainedModel, which: str) -> None:
        """Find the stack whose attention is meant."""
        self._model, self._which = model, which
        body: PreTrainedModel = model.base_model  # type: ignore[assignment]
        if which != "self":
            body = model.get_encoder() if which == "encoder" else model.get_decoder()
        self.stack = body
        """What holds the attention layers and gives the last hidden state."""

    @property
    def takes_positions(self) -> bool:
        """Whether the tokens' positions can be given."""
        names = inspect.signature(self._runner(True).forward).parameters
        return "position_ids" in names

    def __call__(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        logits: bool = False,
        hidden: bool = False,
        states: bool = False,
        positions: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Run one batch.

        Args:
            ids: (B, T) int64.
            mask: (B, T) bool, True on real tokens.
            logits: run the language-model head as well.
            hidden: also return what the stack gives, with the last hidden state.
            states: likewise, with those after the embeddings and after every layer as
                the model gives them.
            positions: (B, T) int64; None lets the model count.

        Returns:
            The model's output, and the stack's or None: ``last_hidden_state``
            (B, T, C) and, with ``states``, ``hidden_states``.
        """
        # A text without tokens still needs one to attend to; its KV stays masked.
        first = torch.zeros_like(mask)
        first[:, 0] = ~mask.any(dim=1)
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": (mask | first).long(),
        }
        if positions is not None:
            inputs["position_ids"] = positions
        if self._which in ("decoder", "cross"):
            inputs |= self._decoder_inputs(ids, inputs["attention_mask"])
        if getattr(self._model.config, "use_cache", False) and self._which != "encoder":
            inputs["use_cache"] = False
        runner = self._runner(logits)
        if states:
            inputs["output_hidden_states"] = True
        if not (hidden or states):
            return runner(**inputs), None
        with _given_by(self.stack) as given:
            output = runner(**inputs)
        return output, given[-1]

    def told_apart(self, ids: Tensor) -> None:
        """Run both stacks of an encoder-decoder on texts of different length."""
        shorter = ids[:, : ids.shape[1] - 1]  # so that cross-attention shows
        self._model(input_ids=ids, decoder_input_ids=shorter, use_cache=False)

    def _runner(self, logits: bool) -> nn.Module:
        if self._which == "encoder":
            return self.stack
        return self._model if logits else self._model.base_model

    def _decoder_inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        if self._which == "decoder":
            return {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        start = getattr(self._model.config, "decoder_start_token_id", None) or 0
        return {"decoder_input_ids": torch.full_like(ids[:, :1], start)}


def resolve_which(model: PreTrainedModel, which: str) -> str:
    """Name the attention to capture: "self", "encoder", "decoder" or "cross".

    Raises:
        ValueError: unknown, or not what this model has.
    """
    if which not in WHICH:
        raise ValueError(f"which={which!r}; valid are {', '.join(WHICH)}")
    both = bool(getattr(model.config, "is_encoder_decoder", False))
    if which == "auto":
        return "encoder" if both else "self"
    if both == (which == "self"):
        valid = "encoder, decoder, cross" if both else "self"
        raise ValueError(
            f"which={which!r} does not fit {type(model).__name__}; valid are {valid}"
        )
    return which


@contextmanager
def without_checkpointing(model: nn.Module) -> Iterator[None]:
    """Switch gradient checkpointing off for a while."""
    on: list[Any]
    on = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    for module in on:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in on:
            module.gradient_checkpointing = True


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch training mode off for a while, module by module."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _given_by(body: nn.Module) -> Iterator[list[Any]]:
    from transformers import PreTrainedModel

    outputs: list[Any] = []
    thread = get_ident()

    def note(_module: nn.Module, _inputs: object, output: Any) -> None:
        state = getattr(output, "last_hidden_state", None)
        if state is not None and get_ident() == thread:
            outputs.append(output)

    # Some heads (OPT's) call a stack inside the body and pass the body by.
    stacks = [m for m in body.modules() if isinstance(m, PreTrainedModel)]
    hooks = [stack.register_forward_hook(note) for stack in stacks]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
