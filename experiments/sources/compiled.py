"""Blocks compiled as ``train.compile`` and ``teachers.NAME.compile`` ask, and tried.

Attention stays as it is: capture listens there, and answers in its place. What else
belongs to a block, such as a perceptron or a norm of several operations, is compiled
whole, each by ``Module.compile``: names of weights, what is saved and what is loaded
know nothing of it, and gradient checkpointing wraps it as before. A part in which
somebody listens, as where states at norms are compared, runs uncompiled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from align.errors import InputError
from align.foreign.quote import say
from experiments.config.parsing import ConfigError
from experiments.config.tree import Config, PhaseConfig
from student.loop.launch import launched_rank
from teacher.capture.forward import evaluating
from teacher.capture.kv_capture import KVCapture
from teacher.capture.probe import seems_to_attend

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Largest difference from the model as it was, see :func:`differs_by`, by the type that
it computes in."""
GRAPHS = 64
"""Of one function: types, gradients on and off, and sizes of several models. PyTorch's
own limit of 8 would stop a run with a few teachers of one family."""
_TEXTS, _TOKENS = 2, 12
"""Of the trial: neither is 1, for which PyTorch would compile apart."""


def check_compile(config: Config, phases: Sequence[PhaseConfig]) -> None:
    """See that what is to be compiled are weights that are whole, and stay as they are
    but for what is learned.

    Raises:
        ConfigError: names what does not go with ``train.compile``.
    """
    for phase in phases:
        if not phase.train.compile:
            continue
        if config.student.quantise != "none":
            raise ConfigError(
                f"train.compile and student.quantise={config.student.quantise}: only "
                "weights that are whole as they lie are compiled with; leave one of "
                "both out"
            )
        if phase.transform:
            raise ConfigError(
                f"train.compile and student.transform ({', '.join(phase.transform)}), "
                "by which weights are others at every step; leave one of both out"
            )


def compile_model(
    capture: KVCapture,
    place: str,
    *,
    autocast: torch.dtype | None = None,
    backend: str = "inductor",
) -> None:
    """Compile the blocks of a model in place, and see that it computes as before.

    The trial compiles for what comes: without gradients as one measures, and with them
    where weights learn. Nothing is drawn from the process's generators.

    Args:
        capture: of the model, where it will run.
        place: of the setting, for messages.
        autocast: type of matrix products; None for that of the weights.
        backend: of ``torch.compile``.

    Raises:
        InputError: it cannot be compiled, or computes otherwise then.
    """
    model: Any = capture.model
    kind = capture.device.type
    if capture.start is not None:
        raise InputError(
            f"{place}: {type(model).__name__} reads sources and targets in two stacks, "
            "which was not tried compiled; set it to false"
        )
    with (
        torch.random.fork_rng(devices=_gpus(capture.device)),
        torch.autocast(kind, dtype=autocast, enabled=autocast is not None),
    ):
        with evaluating(model), torch.no_grad():
            before = _read(capture)
        try:
            parts = compile_blocks(model, backend)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        begun = time.perf_counter()
        try:
            with evaluating(model), torch.no_grad():
                after = _read(capture)
            if any(p.requires_grad for p in model.parameters()):
                with without_gradients(model):
                    means = [x.float().square().mean() for x in _read(capture)]
                    torch.stack(means).sum().backward()
        except Exception as error:  # each backend fails in its own way
            leave_uncompiled(parts)
            raise InputError(
                f"{place}: {type(model).__name__} cannot be compiled here "
                f"({failure_of(error)}); a CPU needs a C++ compiler (g++), a GPU "
                "triton. Set it to false"
            ) from error
    spent = time.perf_counter() - begun
    apart = max(differs_by(a, b) for a, b in zip(before, after, strict=True))
    if not apart <= ROUNDING[autocast or before[0].dtype]:
        leave_uncompiled(parts)
        raise InputError(
            f"{place}: compiled, {type(model).__name__} computes otherwise: keys, "
            f"values or outputs of a trial differ by {apart:.2g} of the largest; set "
            "it to false"
        )
    if launched_rank() == 0:
        kinds = ", ".join(dict.fromkeys(type(part).__name__ for part in parts))
        say(
            f"{place}: {len(parts)} parts ({kinds}) compiled in {spent:.0f} s; a trial "
            f"differs by {apart:.1g} of the largest number"
        )


def _read(capture: KVCapture) -> list[Tensor]:
    """Keys, values and outputs of a few tokens, padded as batches are."""
    ids = torch.arange(3, 3 + _TEXTS * _TOKENS, device=capture.device)
    ids = ids.view(_TEXTS, _TOKENS) % _vocabulary(capture)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[-1, -3:] = False
    captured = capture(ids, mask, logits=capture.has_logits)
    real = mask.nonzero(as_tuple=True)
    flat = [x.permute(1, 3, 0, 2, 4)[real] for x in (captured.kv.k, captured.kv.v)]
    return flat if captured.logits is None else [*flat, captured.logits[real]]


def _vocabulary(capture: KVCapture) -> int:
    embedding: Any = capture.model.get_input_embeddings()
    return int(embedding.weight.shape[0])


@contextmanager
def without_gradients(model: Any) -> Iterator[None]:
    """Leave no gradient behind."""
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)


def _gpus(device: torch.device) -> list[int]:
    return [] if device.type != "cuda" else [device.index or 0]


def compile_blocks(model: nn.Module, backend: str = "inductor") -> list[nn.Module]:
    """Have the parts of a model's blocks compiled when they first run.

    Args:
        model: of transformers.
        backend: of ``torch.compile``; ``aot_eager`` traces and rounds as without.

    Returns:
        What will be compiled, for sizes that may change from call to call.

    Raises:
        InputError: its blocks have no part that is worth it.
    """
    parts = list(compilable(model))
    if not parts:
        raise InputError(
            f"the blocks of {type(model).__name__} hold nothing to compile beside "
            "attention, single layers of PyTorch and parts without weights; set it to "
            "false"
        )
    for part in parts:
        part.compile(fullgraph=True, dynamic=True, backend=backend)
        compiled = part._compiled_call_impl
        assert compiled is not None
        part._compiled_call_impl = unless_hooked(part, compiled)
    return parts


def unless_hooked(part: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
    """What runs a part: compiled, until somebody hooks into it or into what it holds.

    PyTorch does not look whether there are hooks (``skip_nnmodule_hook_guards``): a
    graph made before would leave them out, and states that are captured at norms would
    be others. From then on the part stays as it was, as what is recomputed in a
    backward pass has to be what ran forward.

    Args:
        part: of a model.
        compiled: calls it so.
    """
    from torch import _dynamo

    settings: Any = _dynamo.config
    modules = list(part.modules())

    def call(*args: Any, **named: Any) -> Any:
        if any(map(_hooked, modules)):
            leave_uncompiled([part])
            return part._call_impl(*args, **named)
        if settings.recompile_limit < GRAPHS:  # each thread has its own
            settings.recompile_limit = GRAPHS
        return compiled(*args, **named)

    return call


def _hooked(module: nn.Module) -> bool:
    kinds = module._forward_hooks, module._forward_pre_hooks
    return any(kinds) or bool(module._backward_hooks or module._backward_pre_hooks)


def compilable(model: nn.Module) -> Iterator[nn.Module]:
    """The largest parts of a model's blocks that hold weights and no attention.

    A block is what stands in a list of modules and holds attention. A single layer of
    PyTorch is one operation, of which nothing is gained.
    """
    met: set[nn.Module] = set()
    for several in model.modules():
        if isinstance(several, nn.ModuleList):
            for block in several:
                if block not in met and any(map(seems_to_attend, block.modules())):
                    met.update(block.modules())
                    yield from _parts(block)


def leave_uncompiled(parts: Sequence[nn.Module]) -> None:
    """Have parts run as they did before :func:`compile_blocks`."""
    for part in parts:
        part._compiled_call_impl = None


def failure_of(error: Exception) -> str:
    """Why something could not be compiled, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    if seems_to_attend(module):
        return
    whole = not any(map(seems_to_attend, module.modules()))
    if whole and not isinstance(module, nn.ModuleList | nn.ModuleDict):
        if not _of_pytorch(module) and any(True for _ in module.parameters()):
            yield module
        return
    for child in module.children():
        yield from _parts(child)


def _of_pytorch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.")


def differs_by(before: Tensor, after: Tensor) -> float:
    """The largest difference, as a share of the largest number of the first."""
    most = before.abs().max().clamp(min=torch.finfo(before.dtype).tiny)
    return float((before - after).abs().max() / most)
