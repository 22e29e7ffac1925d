"""What a forward and a backward hold, found on tensors that have shapes and no bytes.

The model's own code runs, on PyTorch's fake tensors, and every piece of memory counts
from when an operation gives it until nothing refers to it. Kernels' own scratch and
what allocators round up are not seen.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from align.support.text_part import text_modules
from student.config import LoraConfig
from student.lora import add_adapters
from student.trained import train_embeddings
from teacher.loading.quantise import quantise

FEW, MORE = 2, 3
"""Layers of the two models that are traced: each further one adds what the last did."""


@dataclass(frozen=True, slots=True)
class Passes:
    """Bytes beside the weights."""

    kept: int
    """By the forward for the backward; 0 without gradients."""
    forward: int
    """At the forward's peak, over ``kept``."""
    backward: int
    """At the backward's peak, over ``kept``; gradients of weights are left out."""
    _: KW_ONLY
    learned: int = 0
    """Numbers that transforms learn beside the weights."""
    beside: int = 0
    """Bytes of what they keep besides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class How:
    """How a model is held and run."""

    dtype: torch.dtype
    autocast: torch.dtype | None = None
    quantised: bool = False
    lora: LoraConfig | None = None
    checkpointing: bool = False
    trained: bool = False
    embeddings: bool = False
    """Whether embedding and head alone are trained, and updates."""
    transformed: Callable[[Any], Any] | None = None
    """Puts transforms on a model, at their strength in the end."""


def _freeze_towers(model: Any) -> None:
    """As a run does of what no text reaches; without weights nothing can be run."""
    read = [*text_modules(model).values(), model.get_output_embeddings()]
    kept = {id(p) for m in read if m is not None for p in m.parameters(recurse=False)}
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)


def skeleton(config: Any, how: How) -> Any:
    """A model of a transformers config without weights, prepared as for a run."""
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.models.auto import modeling_auto

    causal = config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    causal |= "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    # A config of a class that came with a model is there because that is trusted.
    trust = type(config).__module__.startswith("transformers_modules.")
    both = getattr(config, "is_encoder_decoder", False)
    auto = AutoModelForCausalLM if causal and not both else AutoModel
    with torch.device("meta"):
        model: Any = auto.from_config(config, dtype=how.dtype, trust_remote_code=trust)
        model.train(how.trained).requires_grad_(how.trained)
        _freeze_towers(model)
        # The bytes of int4 are counted elsewhere; what a product needs is the same.
        if how.quantised:
            quantise(model, "int8")
        if how.lora is not None and how.lora.rank:
            add_adapters(model, how.lora, 0)
        if how.embeddings:
            train_embeddings(model)
    if how.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def passes(config: Any, batch: int, tokens: int, how: How) -> Passes:
    """Trace a model's stack, from token ids to last hidden states and back.

    Args:
        config: of transformers.
        batch: texts.
        tokens: of each; none is padding, which would add a mask.
        how: prepared and run.

    Returns:
        Of the model with all its layers. Each layer of a stack holds as much as the
        next, so a model of ``FEW`` and one of ``MORE`` tell what one adds.
    """
    layers = int(config.get_text_config().num_hidden_layers)
    if layers <= MORE:
        return _traced(config, batch, tokens, how)
    few, more = (
        _traced(_shortened(config, count), batch, tokens, how) for count in (FEW, MORE)
    )
    steps = (layers - FEW) // (MORE - FEW)

    def all_layers(name: str) -> int:
        first = getattr(few, name)
        return int(first + steps * (getattr(more, name) - first))

    return Passes(**{field.name: all_layers(field.name) for field in fields(Passes)})


def _shortened(config: Any, layers: int) -> Any:
    short = copy.deepcopy(config)
    text = short.get_text_config()
    text.num_hidden_layers = layers
    for name in ("num_decoder_layers", "decoder_layers"):
        if hasattr(text, name):
            setattr(text, name, layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return short


def _traced(config: Any, batch: int, tokens: int, how: How) -> Passes:
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = skeleton(config, how)
    both = config.is_encoder_decoder
    encoder = both and not how.trained  # a student's decoder reads as much again
    stack = model.get_encoder() if encoder else model.base_model
    autocast = (
        torch.autocast("cpu", how.autocast, cache_enabled=False)
        if how.autocast is not None
        else nullcontext()
    )
    # Constants that a model makes for itself come from outside.
    with _as_in_a_new_process(), FakeTensorMode(allow_non_fake_inputs=True):
        _without_bytes(model)
        learned = beside = 0
        if how.transformed is not None:
            learned, beside = _numbers(model), _buffer_bytes(model)
            how.transformed(model)
            learned = _numbers(model) - learned
            beside = _buffer_bytes(model) - beside
        ids = torch.zeros((batch, tokens), dtype=torch.int64)
        cache: dict[str, Any] = {} if encoder else {"use_cache": False}
        if both and not encoder:
            cache["decoder_input_ids"] = ids
        with _counting(model) as count, torch.set_grad_enabled(how.trained):
            with autocast:
                last = stack(input_ids=ids, **cache)[0]
            if not how.trained:
                return Passes(0, count.most, 0)
            kept, forward, count.most = count.now, count.most, count.now
            last.backward(torch.ones_like(last))
            grads = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    most = max(0, count.most - kept - grads)
    return Passes(kept, forward - kept, most, learned=learned, beside=beside)


def _numbers(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _buffer_bytes(model: nn.Module) -> int:
    return sum(buffer.nbytes for buffer in model.buffers())


@contextmanager
def _as_in_a_new_process() -> Iterator[None]:
    """Undo for a while what others have set in PyTorch and what shows in a trace.

    DeepSpeed's ZeRO 3, for one, puts a linear layer of its own in place of PyTorch's,
    which keeps other tensors, and leaves it there.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    linear = functional.linear
    functional.linear = torch._C._nn.linear
    try:
        with sdpa_kernel(
            [
                SDPBackend.FLASH_ATTENTION,
                SDPBackend.EFFICIENT_ATTENTION,
                SDPBackend.CUDNN_ATTENTION,
                SDPBackend.MATH,
            ]
        ):
            yield
    finally:
        functional.linear = linear


def _without_bytes(model: nn.Module) -> None:
    """Put a skeleton's parameters and buffers where autocast takes them."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                here = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(here, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class _Count:
    """Bytes that are referred to."""

    def __init__(self, model: nn.Module) -> None:
        self.now = self.most = 0
        held = [*model.parameters(), *model.buffers()]  # whose views cost nothing
        self._sizes = {self._storage(tensor)._cdata: 0 for tensor in held}

    def add(self, tensor: Tensor) -> None:
        storage = self._storage(tensor)
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, storage._cdata)

    @staticmethod
    def _storage(tensor: Tensor) -> Any:
        return tensor.untyped_storage()

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@contextmanager
def _counting(model: nn.Module) -> Iterator[_Count]:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    count = _Count(model)

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    count.add(leaf)
            return out

    with Mode():
        yield count
