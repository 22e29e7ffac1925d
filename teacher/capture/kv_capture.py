"""Content keys and values of any transformers model, with gradients."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from align.errors import InputError
from align.kv import KV
from align.sizes import Sized, Sizes
from align.views import EMBEDDINGS, Captured, Injection
from teacher.capture.attention_sites import listening
from teacher.capture.between import Between, Notes
from teacher.capture.checks import check_asked, check_batch, check_injection
from teacher.capture.forward import (
    Forward,
    evaluating,
    resolve_which,
    without_checkpointing,
)
from teacher.capture.joined import joined_maps
from teacher.capture.layer_numbers import layer_numbers, without_kv
from teacher.capture.left_padding import counted, is_left_padded, learn_positions
from teacher.capture.limits import check_model, position_limit, unsupported
from teacher.capture.probe import (
    PROBE_TOKENS,
    AttentionLayer,
    NotFiniteError,
    find_attention,
)
from teacher.capture.recording import Enough, Recording
from teacher.capture.windows import Windows, read_in_windows
from teacher.loading.shard import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class KVCapture(Sized):
    """Runs a model and records the keys and values of its layers.

    Only while a batch runs does anything of this class stand on the model. One model
    may be captured from several threads at once.

    Args:
        model: a ``transformers.PreTrainedModel`` whose attention goes through
            transformers' attention interface, in any of its implementations.
        which: "self" for decoder-only and encoder-only models; "encoder",
            "decoder" or "cross" for encoder-decoders; "auto" means "self", or
            "encoder" for an encoder-decoder. Under "decoder" and "cross" the
            encoder reads the same text, so the decoder sees all of it.
        windows: how to read texts with more tokens than ``windows.tokens``, see
            :func:`teacher.capture.windows.read_in_windows`; None refuses what exceeds a
            position table and reads the rest at once.

    Raises:
        ValueError: the model is unsupported; the text says why and what is. Or
            the windows are larger than its position table.
        TypeError: ``model`` is no PreTrainedModel.
    """

    start: int | None = None  # what decoders of :class:`PairCapture` are given first

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        which: str = "auto",
        windows: Windows | None = None,
    ) -> None:
        """Learn the model's layers by a short forward."""
        check_model(model)
        self.model = model
        self.which = resolve_which(model, which)
        self._forward = Forward(model, self.which)
        self._positions = position_limit(model)
        self._windows = windows
        if windows and self._positions and windows.tokens > self._positions:
            raise InputError(
                f"windows of {windows.tokens} tokens for {type(model).__name__}, which "
                f"has {self._positions} positions; give at most so many"
            )
        self._parameters = model.num_parameters()
        self._hidden_size = int(model.config.get_text_config().hidden_size)
        name = type(model).__name__
        self._between = Between(self._forward, name, self._probe_tokens)
        self._layers, self.layer_numbers, self.layers_without_kv = self._find_layers()
        self._modules = list(dict.fromkeys(x.module for x in self._layers))

    @property
    def sizes(self) -> Sizes:
        """Of the captured layers."""
        first = self._layers[0]
        return Sizes(
            layers=len(self._layers),
            heads=first.heads,
            k_dim=first.k_dim,
            v_dim=first.v_dim,
            hidden_size=self._hidden_size,
            query_heads=first.query_heads,
            embedding_size=self._between.embedding_size,
            parameters=self._parameters,
        )

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
    def predicts(self) -> bool:
        """Whether it says what comes next, having read what came before alone."""
        return self.causal and self.has_logits

    @property
    def max_tokens(self) -> int | None:
        """Longest T that is read; None where nothing limits it, as with windows."""
        return None if self._windows else self._positions

    @property
    def windows(self) -> Windows | None:
        """How longer texts are read, None where they are not."""
        return self._windows

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters."""
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
        heads: bool = False,
        states: Collection[str] = (),
    ) -> Captured:
        """Run one batch.

        With gradients disabled and nothing but KV (or attention rows) asked, the
        forward ends as soon as the last asked layer has its keys and values.

        Args:
            ids: (B, T) int64, B >= 1 and T >= 1.
            mask: (B, T) bool, True on real tokens, padding on either side. Models
                which cannot be told where a text begins want it on the right.
            layers: layers to record, each in [0, num_layers); None means all, and none
                are needed where logits or hidden states are asked for.
            logits: also return them.
            hidden: also return the last hidden state.
            inject: KV to read in place of the own. Gradient checkpointing is
                off for such a forward: its recomputation would read the own KV.
                Layers that share a layer's KV go on reading that layer's own.
            attention_rows: (B, R) int64 query positions whose attention to return.
            heads: also return it head by head.
            states: of ``align.views.STATES``, to return after the asked layers.

        Returns:
            Content KV of the asked layers, before injection, and what else was asked.

        Raises:
            ValueError: an argument does not fit the model or another argument;
                or gradients are on and a re-entrant checkpoint cuts them.
            RuntimeError: this thread is within a captured forward of the model.
        """
        wanted = list(range(self.num_layers)) if layers is None else list(layers)
        check_batch(ids, mask, self)
        check_asked(
            wanted,
            logits=logits,
            hidden=hidden or bool(states),
            rows=attention_rows,
            batch=ids.shape[0],
            capture=self,
        )
        if inject is not None:
            check_injection(inject, ids, self)
        read = partial(
            self._read,
            wanted,
            logits=logits,
            hidden=hidden,
            heads=heads,
            states=states,
            inject=inject,
        )
        if self._windows is None or ids.shape[1] <= self._windows.tokens:
            return read(ids, mask, attention_rows)
        if inject is not None:
            raise InputError(
                f"ids hold {ids.shape[1]} tokens, which are read in windows of "
                f"{self._windows.tokens}; inject into shorter texts"
            )
        return read_in_windows(read, self._windows, ids, mask, attention_rows)

    def _read(
        self,
        wanted: list[int],
        ids: Tensor,
        mask: Tensor,
        rows: Tensor | None,
        *,
        logits: bool,
        hidden: bool,
        heads: bool,
        states: Collection[str],
        inject: Injection | None,
    ) -> Captured:
        positions = None
        if is_left_padded(mask):
            positions = counted(mask) if self._told_positions else None
            ids = ids.masked_fill(~mask, self._padding_id)
        whole = logits or hidden or not {EMBEDDINGS}.issuperset(states)
        enough = not (torch.is_grad_enabled() or whole or self._offloaded)
        recording = Recording(
            self._layers,
            wanted,
            device=self.device,
            inject=inject,
            rows=rows,
            heads=heads,
            enough=enough,
        )
        plain = without_checkpointing(self.model) if inject else nullcontext()
        output, notes = None, Notes()
        given = self._between.needs_given(states)
        noting = self._between.listening(states, notes, enough and not wanted)
        with listening(self._modules, recording), plain, noting, suppress(Enough):
            output, notes.given = self._forward(
                ids,
                mask,
                logits=logits,
                hidden=hidden,
                states=given,
                positions=positions,
            )
        numbers = [self.layer_numbers[layer] for layer in wanted]
        content = recording.content() if wanted else self._nothing(ids)
        return Captured(
            kv=KV(*content, mask),
            logits=output.logits if logits and output is not None else None,
            hidden=notes.given.last_hidden_state if hidden else None,
            attention=recording.attention(),
            attention_heads=recording.attention_heads(),
            states=self._between.states(states, notes, numbers, self._hidden_size),
        )

    def joined_maps(self) -> dict[int, tuple[Tensor, ...]]:
        """Which trainable layers make queries, keys and values in one.

        Learned by a short forward, in which gradients tell.

        Returns:
            By ``id`` of the layer's weight, the outputs that belong together, (rows,)
            int64 each.
        """
        vocabulary = self.model.config.get_text_config().vocab_size
        ids = torch.arange(self._probe_tokens, device=self.device)[None] % vocabulary
        mask = torch.ones_like(ids, dtype=torch.bool)
        return joined_maps(
            self._modules, lambda: self._forward(ids, mask), model=self.model
        )

    def _nothing(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of no layer."""
        batch, tokens = ids.shape
        shapes = (
            (0, batch, self.num_kv_heads, tokens, d) for d in (self.k_dim, self.v_dim)
        )
        k, v = (torch.empty(s, dtype=self.dtype, device=self.device) for s in shapes)
        return k, v

    def _find_layers(self) -> tuple[list[AttentionLayer], list[int], dict[int, str]]:
        model, stack = self.model, self._forward.stack
        try:
            layers = find_attention(stack, self._probe, self.which == "cross")
            if not layers:
                raise InputError("no module attends through the interface")
            numbers = layer_numbers(stack, layers)
            others = without_kv(stack, layers, numbers)
        except NotFiniteError as error:
            raise InputError(f"{type(model).__name__} {error}") from error
        except ValueError as error:
            raise unsupported(model, str(error)) from error
        with_kv = [layer for layer in layers if layer.lender is None]
        shapes = {(x.heads, x.k_dim, x.v_dim) for x in with_kv}
        if len(shapes) > 1:
            raise unsupported(
                model,
                f"its layers differ in (heads, key size, value size): {sorted(shapes)}",
            )
        return with_kv, [n for n in numbers if n not in others], others

    @property
    def _probe_tokens(self) -> int:
        return min(PROBE_TOKENS, self._positions or PROBE_TOKENS)

    def _probe(self) -> None:
        tokens = self._probe_tokens
        ids = torch.zeros((1, tokens), dtype=torch.int64, device=self.device)
        if self.which in ("self", "encoder"):
            mask = torch.ones_like(ids, dtype=torch.bool)
            _, given = self._forward(ids, mask, hidden=True)
            self._hidden_size = given.last_hidden_state.shape[-1]  # OPT may project it
        else:
            self._forward.told_apart(ids)

    @cached_property
    def _told_positions(self) -> bool:
        """Whether a left-padded text's positions are given to the model."""

        def read(ids: Tensor, mask: Tensor, positions: Tensor | None) -> KV:
            ids, mask = ids.to(self.device), mask.to(self.device)
            layers = range(self.num_layers)
            recording = Recording(self._layers, layers, device=self.device)
            given = None if positions is None else positions.to(self.device)
            with listening(self._modules, recording):
                self._forward(ids, mask, positions=given)
            return KV(*recording.content(), mask)

        vocabulary = self.model.config.get_text_config().vocab_size
        with torch.no_grad(), evaluating(self.model):
            try:
                return learn_positions(
                    read, self._forward.takes_positions, vocabulary, self._padding_id
                )
            except InputError as error:
                raise InputError(f"{type(self.model).__name__} {error}") from error

    @property
    def _padding_id(self) -> int:
        config = self.model.config.get_text_config()
        return int(getattr(config, "pad_token_id", None) or 0)

    @property
    def _offloaded(self) -> bool:
        # An early end would leave weights that were moved in where they are.
        return hasattr(self.model, "hf_device_map") or is_sharded(self.model)
