"""Content keys and values of any transformers model, with gradients.

What is recorded during a forward are references only; rotation is undone and
attention rows are computed after it. A layer under gradient checkpointing must
save the same tensors in its forward and in its recomputation, and by the time of
the recomputation nobody listens any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from align.captured import Captured, Injection
from align.kv import KV
from teacher.attention_rows import attention_rows as rows_of
from teacher.attention_sites import EAGER, SDPA, listening, register
from teacher.limits import check_model, position_limit, unsupported
from teacher.probe import (
    PROBE_TOKENS,
    AttentionLayer,
    NotFiniteError,
    find_attention,
)
from teacher.recording import Enough, Recording, given_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WHICH = ("auto", "self", "encoder", "decoder", "cross")


class KVCapture:
    """Runs a model and records the keys and values of its layers.

    Args:
        model: a ``transformers.PreTrainedModel`` whose attention goes through
            transformers' attention interface. It is switched to capture's own
            attention function, which computes the same by sdpa.
        which: "self" for decoder-only and encoder-only models; "encoder",
            "decoder" or "cross" for encoder-decoders; "auto" means "self", or
            "encoder" for an encoder-decoder. Under "decoder" and "cross" the
            encoder reads the same text, so the decoder sees all of it.

    Raises:
        ValueError: the model is unsupported; the text says why and what is.
        TypeError: ``model`` is no PreTrainedModel.
    """

    def __init__(self, model: PreTrainedModel, *, which: str = "auto") -> None:
        """Switch the model's attention and learn its layers by a short forward."""
        check_model(model)
        self.model = model
        self.which = _resolve_which(model, which)
        register()
        eager = not getattr(model, "_supports_sdpa", True)
        model.set_attn_implementation(EAGER if eager else SDPA)
        self._max_tokens = position_limit(model)
        self._hidden_size = int(model.config.get_text_config().hidden_size)
        self._layers = self._find_layers()
        self._modules = list(dict.fromkeys(x.module for x in self._layers))

    @property
    def num_layers(self) -> int:
        """L, the attention layers of the captured stack."""
        return len(self._layers)

    @property
    def num_kv_heads(self) -> int:
        """H, not repeated for grouped queries."""
        return self._layers[0].heads

    @property
    def k_dim(self) -> int:
        """Head size of the keys."""
        return self._layers[0].k_dim

    @property
    def v_dim(self) -> int:
        """Head size of the values."""
        return self._layers[0].v_dim

    @property
    def hidden_size(self) -> int:
        """C, width of the last hidden state."""
        return self._hidden_size

    @property
    def causal(self) -> bool:
        """Whether a token's KV has read no later token."""
        if self.which in ("decoder", "cross"):
            return False  # the encoder has read everything
        return all(layer.causal for layer in self._layers)

    @property
    def has_rotary(self) -> bool:
        """Whether any layer rotates its keys."""
        return any(layer.rotation is not None for layer in self._layers)

    @property
    def has_logits(self) -> bool:
        """Whether ``logits=True`` can be served."""
        head = self.model.get_output_embeddings()
        return head is not None and self.which in ("self", "decoder")

    @property
    def max_tokens(self) -> int | None:
        """Longest T the model has positions for; None where nothing limits it."""
        return self._max_tokens

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's parameters."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Where the model takes its ids."""
        return self.model.device

    def __call__(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        layers: Sequence[int] | None = None,
        logits: bool = False,
        hidden: bool = False,
        inject: Injection | None = None,
        attention_rows: Tensor | None = None,
    ) -> Captured:
        """Run one batch.

        With gradients disabled and nothing but KV (or attention rows) asked, the
        forward ends as soon as the last asked layer has its keys and values.

        Args:
            ids: (B, T) int64, T >= 1.
            mask: (B, T) bool, True on real tokens, padding on the right.
            layers: layers to record, each in [0, num_layers); None means all.
            logits: also return them.
            hidden: also return the last hidden state.
            inject: KV to read in place of the own. Gradient checkpointing is
                off for such a forward: its recomputation would read the own KV.
            attention_rows: (B, R) int64 query positions whose attention to return.

        Returns:
            Own content KV of the asked layers in the asked order, before any
            injection, and what else was asked for.

        Raises:
            ValueError: an argument does not fit the model or another argument;
                or gradients are on and a re-entrant checkpoint cuts them.
        """
        wanted = list(range(self.num_layers)) if layers is None else list(layers)
        self._check_call(ids, mask, wanted, logits, hidden, attention_rows)
        if inject is not None:
            self._check_injection(inject, ids)
        enough = not (torch.is_grad_enabled() or logits or hidden or self._offloaded())
        recording = Recording(
            self._layers, set(wanted), inject, attention_rows is not None, enough
        )
        plain = _without_checkpointing(self.model) if inject else nullcontext()
        output, last_hidden = None, None
        with listening(self._modules, recording), plain, suppress(Enough):
            output, last_hidden = self._forward(ids, mask, logits, hidden)
        return Captured(
            kv=self._content(recording, wanted, mask),
            logits=output.logits if logits and output is not None else None,
            hidden=last_hidden,
            attention=self._attention(recording, wanted, attention_rows),
        )

    def _forward(
        self, ids: Tensor, mask: Tensor, logits: bool, hidden: bool
    ) -> tuple[Any, Tensor | None]:
        # A text without tokens still needs one to attend to; its KV stays masked.
        first = torch.zeros_like(mask)
        first[:, 0] = ~mask.any(dim=1)
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": (mask | first).long(),
        }
        model = self.model
        body = model.base_model
        runner = model if logits else body
        if self.which == "encoder":
            runner = body = model.get_encoder()
        elif self.which in ("decoder", "cross"):
            body = model.get_decoder()
            inputs |= self._decoder_inputs(ids, inputs["attention_mask"])
        if getattr(model.config, "use_cache", False) and self.which != "encoder":
            inputs["use_cache"] = False
        if not hidden:
            return runner(**inputs), None
        with _last_hidden(body) as seen:
            output = runner(**inputs)
        return output, seen[-1]

    def _decoder_inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        if self.which == "decoder":
            return {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        start = getattr(self.model.config, "decoder_start_token_id", None) or 0
        return {"decoder_input_ids": torch.full_like(ids[:, :1], start)}

    def _find_layers(self) -> list[AttentionLayer]:
        model = self.model
        stack: PreTrainedModel = model.base_model  # type: ignore[assignment]
        if self.which != "self":
            encoder = self.which == "encoder"
            stack = model.get_encoder() if encoder else model.get_decoder()
        try:
            layers = find_attention(stack, self._probe, self.which == "cross")
        except NotFiniteError as error:
            raise ValueError(f"{type(model).__name__} {error}") from error
        except ValueError as error:
            raise unsupported(model, str(error)) from error
        if not layers:
            raise unsupported(model, "no module attends through the interface")
        expected = getattr(stack.config.get_text_config(), "num_hidden_layers", None)
        if self.which == "self" and expected not in (None, len(layers)):
            raise unsupported(
                model, f"only {len(layers)} of its {expected} layers attend"
            )
        shapes = {(x.heads, x.k_dim, x.v_dim) for x in layers}
        if len(shapes) > 1:
            raise unsupported(
                model,
                f"its layers differ in (heads, key size, value size): {sorted(shapes)}",
            )
        return layers

    def _probe(self) -> None:
        tokens = min(PROBE_TOKENS, self._max_tokens or PROBE_TOKENS)
        ids = torch.zeros((1, tokens), dtype=torch.int64, device=self.device)
        mask = torch.ones_like(ids, dtype=torch.bool)
        if self.which in ("self", "encoder"):
            _, last = self._forward(ids, mask, False, hidden=True)
            assert last is not None
            self._hidden_size = last.shape[-1]  # OPT may project it out of hidden_size
            return
        shorter = ids[:, : tokens - 1]  # so that cross-attention shows
        self.model(input_ids=ids, decoder_input_ids=shorter, use_cache=False)

    def _offloaded(self) -> bool:
        # An early end would leave weights moved in by accelerate where they are.
        return hasattr(self.model, "hf_device_map")

    def _check_call(
        self,
        ids: Tensor,
        mask: Tensor,
        layers: list[int],
        logits: bool,
        hidden: bool,
        rows: Tensor | None,
    ) -> None:
        name = type(self.model).__name__
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise ValueError(f"ids have shape {tuple(ids.shape)}; give (B, T), T >= 1")
        if mask.shape != ids.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"mask is {mask.dtype} {tuple(mask.shape)}; give bool "
                f"{tuple(ids.shape)}, True on real tokens"
            )
        if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise ValueError(
                "mask has real tokens after padding, so positions would be wrong; "
                "pad on the right"
            )
        if self._max_tokens is not None and ids.shape[1] > self._max_tokens:
            raise ValueError(
                f"{name} has {self._max_tokens} positions, but ids hold "
                f"{ids.shape[1]} tokens; truncate to max_length={self._max_tokens}"
            )
        wrong = [x for x in layers if not 0 <= x < self.num_layers]
        if wrong or len(set(layers)) != len(layers) or not layers:
            raise ValueError(
                f"layers {layers} of {name}: give one or more distinct layers in "
                f"0..{self.num_layers - 1}"
            )
        if logits and not self.has_logits:
            raise ValueError(
                f"{name} captured as '{self.which}' has no language-model head to "
                "give logits; leave logits=False or load it with one"
            )
        if self.which == "cross" and (hidden or rows is not None):
            raise ValueError(
                "cross-attention is captured with a single decoder token, which has "
                "no hidden states or attention rows of use; capture 'decoder' instead"
            )
        if rows is not None and (rows.ndim != 2 or rows.shape[0] != ids.shape[0]):
            raise ValueError(
                f"attention_rows have shape {tuple(rows.shape)}; give (B, R) with "
                f"B = {ids.shape[0]}"
            )

    def _check_injection(self, inject: Injection, ids: Tensor) -> None:
        count = len(inject.layers)
        wrong = [x for x in inject.layers if not 0 <= x < self.num_layers]
        if wrong or len(set(inject.layers)) != count:
            raise ValueError(
                f"inject.layers {list(inject.layers)}: give distinct layers in "
                f"0..{self.num_layers - 1}"
            )
        tokens = (count, ids.shape[0], self.num_kv_heads, ids.shape[1])
        expected = ((*tokens, self.k_dim), (*tokens, self.v_dim))
        found = (tuple(inject.kv.k.shape), tuple(inject.kv.v.shape))
        if found != expected:
            raise ValueError(
                f"inject.kv has shapes {found}; this model needs {expected}, one "
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

    def _content(self, recording: Recording, layers: list[int], mask: Tensor) -> KV:
        keys, values = [], []
        for layer in layers:
            call = recording.calls.get(layer)
            if call is None:
                raise RuntimeError(
                    f"layer {layer} of {type(self.model).__name__} did not run; "
                    "switch off what skips layers (for example config.layerdrop)"
                )
            key, rotation = call.key, self._layers[layer].rotation
            if rotation is not None:
                key = rotation.undo(key, given_positions(call.positions, layer))
            keys.append(key.to(self.device))
            values.append(call.value.to(self.device))
        return KV(torch.stack(keys), torch.stack(values), mask)

    def _attention(
        self, recording: Recording, layers: list[int], rows: Tensor | None
    ) -> Tensor | None:
        if rows is None:
            return None
        found = []
        for layer in layers:
            call = recording.calls[layer]
            assert call.query is not None
            causal = self._layers[layer].causal
            found.append(
                rows_of(
                    call.query, call.attended, call.mask, call.options, rows, causal
                )
            )
        return torch.stack(found)


def _resolve_which(model: PreTrainedModel, which: str) -> str:
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
def _last_hidden(body: nn.Module) -> Iterator[list[Tensor]]:
    from transformers import PreTrainedModel

    seen: list[Tensor] = []

    def note(_module: nn.Module, _inputs: object, output: Any) -> None:
        if getattr(output, "last_hidden_state", None) is not None:
            seen.append(output.last_hidden_state)

    # Some heads (OPT's) call a stack inside the body and pass the body by.
    stacks = [m for m in body.modules() if isinstance(m, PreTrainedModel)]
    hooks = [stack.register_forward_hook(note) for stack in stacks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _without_checkpointing(model: nn.Module) -> Iterator[None]:
    on: list[Any]
    on = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    for module in on:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in on:
            module.gradient_checkpointing = True
