"""What a model holds between its layers: the stream, and what norms make of it.

Where a norm stands differs from family to family: before a layer (Llama, GPT-2), at its
end (BERT), or within it alone (OLMo 2). Which call of which norm reads the stream after
a layer, or makes it, is tried on a few tokens and not looked up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from align.errors import InputError
from align.views import EMBEDDINGS, HIDDEN, NORMED, RESIDUAL
from teacher.capture.forward import Forward, evaluating
from teacher.capture.recording import Enough


@dataclass(kw_only=True, slots=True, eq=False)
class Notes:
    """What one forward left on its way."""

    given: Any = None
    """The stack's own output, with ``hidden_states`` where they are needed."""
    norms: dict[nn.Module, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    """By norm: what each of its calls read and made."""
    embeddings: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _NormCall:
    module: nn.Module
    call: int


class Between:
    """Notes states of one model; see :data:`align.views.STATES`."""

    def __init__(self, forward: Forward, name: str, tokens: int) -> None:
        """Say whose.

        Args:
            forward: runs the model.
            name: the model's class, for errors.
            tokens: on which it is tried.
        """
        self._forward, self._name, self._tokens = forward, name, tokens

    @property
    def embedding_size(self) -> int:
        """Width of the input embeddings; 0 where the model has no table of them."""
        table = self._table()
        return 0 if table is None else int(table.weight.shape[-1])

    def needs_given(self, states: Collection[str]) -> bool:
        """Whether the model itself is to give its hidden states.

        Runs it once, where norms are asked for the first time: not to be asked while
        it runs.
        """
        calls = self._norm_calls if {RESIDUAL, NORMED} & set(states) else []
        return HIDDEN in states or (RESIDUAL in states and None in calls)

    @contextmanager
    def listening(
        self, states: Collection[str], notes: Notes, enough: bool
    ) -> Iterator[None]:
        """Note what is asked of the forward that runs meanwhile.

        Args:
            states: of ``STATES``.
            notes: where.
            enough: nothing after the embeddings is needed.
        """
        thread, hooks = get_ident(), []

        def embedded(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            if get_ident() == thread:
                notes.embeddings = output
                if enough:
                    raise Enough

        def normed(module: nn.Module, inputs: tuple[Tensor, ...], made: Tensor) -> None:
            if get_ident() == thread:
                notes.norms.setdefault(module, []).append((inputs[0], made))

        if EMBEDDINGS in states:
            table = self._table()
            if table is None:
                raise InputError(f"{self._name} has no table of input embeddings")
            hooks.append(table.register_forward_hook(embedded))
        if {RESIDUAL, NORMED} & set(states):
            calls = filter(None, self._norm_calls)
            for module in dict.fromkeys(call.module for call in calls):
                hooks.append(module.register_forward_hook(normed))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def states(
        self, asked: Collection[str], notes: Notes, layers: Sequence[int], width: int
    ) -> dict[str, Tensor]:
        """What was noted.

        Args:
            asked: of ``STATES``.
            notes: of one forward.
            layers: numbers in the model, after which states are asked.
            width: C, of all of them.

        Returns:
            See :attr:`align.views.Captured.states`.

        Raises:
            InputError: the model gives none, or of unlike widths.
        """
        read = {
            HIDDEN: lambda: [self._given(notes, layer) for layer in layers],
            RESIDUAL: lambda: [self._at_norm(notes, layer, 0) for layer in layers],
            NORMED: lambda: [self._at_norm(notes, layer, 1) for layer in layers],
        }
        states: dict[str, Tensor] = {}
        for kind in sorted(set(asked)):
            if kind == EMBEDDINGS:
                assert notes.embeddings is not None
                states[kind] = notes.embeddings[None]
                continue
            every = read[kind]()
            if any(x.shape[-1] != width or x.dim() != 3 for x in every):
                raise self._unlike()
            states[kind] = torch.stack(every)
        return states

    def _given(self, notes: Notes, layer: int) -> Tensor:
        every = getattr(notes.given, "hidden_states", None)
        if every is None:
            raise self._unlike()
        state: Tensor = every[layer + 1]
        return state

    def _at_norm(self, notes: Notes, layer: int, side: int) -> Tensor:
        """What a norm read (0) or made (1)."""
        norm = self._norm_calls[layer]
        if norm is not None:
            return notes.norms[norm.module][norm.call][side]
        if side == 0:  # no norm made it, and none reads it
            return self._given(notes, layer)
        raise InputError(
            f"no norm of {self._name} reads what comes out of its layer {layer}; "
            "compare state: residual"
        )

    def _unlike(self) -> InputError:
        return InputError(
            f"{self._name} gives no hidden states of one width after every layer; "
            "compare its keys and values instead"
        )

    def _table(self) -> Any:
        try:
            return self._forward.stack.get_input_embeddings()
        except NotImplementedError:
            return None

    @cached_property
    def _norm_calls(self) -> list[_NormCall | None]:
        """By layer of the model: the norm that made its output, or else reads it."""
        stack = self._forward.stack
        norms = [m for m in stack.modules() if "norm" in type(m).__name__.lower()]
        notes, hooks = dict[nn.Module, list[tuple[Tensor, Tensor]]](), []

        def note(module: nn.Module, inputs: tuple[Any, ...], made: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(made, Tensor):
                notes.setdefault(module, []).append((inputs[0], made))

        device = next(stack.parameters()).device
        vocabulary = stack.config.get_text_config().vocab_size
        ids = torch.arange(self._tokens, device=device)[None] % vocabulary
        hooks = [module.register_forward_hook(note) for module in norms]
        try:
            with torch.no_grad(), evaluating(stack):
                mask = torch.ones_like(ids, dtype=torch.bool)
                _, given = self._forward(ids, mask, states=True)
        finally:
            for hook in hooks:
                hook.remove()
        every = getattr(given, "hidden_states", None)
        if every is None:
            raise self._unlike()
        return [_norm_of(state, notes) for state in every[1:]]


def _norm_of(
    state: Tensor, notes: Mapping[nn.Module, list[tuple[Tensor, Tensor]]]
) -> _NormCall | None:
    for side in (1, 0):
        for module, calls in notes.items():
            for number, call in enumerate(calls):
                if call[side].shape == state.shape and torch.equal(call[side], state):
                    return _NormCall(module, number)
    return None
