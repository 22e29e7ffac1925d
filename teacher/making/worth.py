"""What each layer of a model is worth, read off a sample."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from align.errors import InputError
from teacher.making.base import Sample
from teacher.making.stack import layer_stack

Seen = Callable[[int, Tensor, Tensor], None]
"""Told a layer's number and the residual stream before and after it, (B, T, C)."""


def mean_loss(model: nn.Module, sample: Sample) -> Tensor:
    """The mean next-token loss of a sample's tokens, nats, with its gradient."""
    total, tokens = torch.zeros(()), 0
    for ids, mask in sample.batches:
        part, count = _summed_loss(model, ids, mask)
        total, tokens = total + part, tokens + count
    return total / tokens


def layer_importance(model: nn.Module, sample: Sample) -> Tensor:
    """(L,) float64 >= 0: by how much the loss would move without each layer.

    Source:
        The first term of Taylor's series (Molchanov et al. 2019, arXiv 1906.10771):
        the mean over tokens of ``|u . dL/dh|``, with h the residual stream after the
        layer. Departure: u is what the layer adds to the stream, not the stream
        itself, most of which is there without the layer, too.
    """
    after: dict[int, tuple[Tensor, Tensor]] = {}

    def see(layer: int, before: Tensor, out: Tensor) -> None:
        if out.requires_grad:
            out.retain_grad()
        after[layer] = (before.detach(), out)

    _, stack = layer_stack(model)
    totals, tokens = torch.zeros(len(stack), dtype=torch.float64), 0
    with _watched(model, see), _reaching(model), torch.enable_grad():
        for ids, mask in sample.batches:
            loss, count = _summed_loss(model, ids, mask)
            loss.backward()  # type: ignore[no-untyped-call]
            for layer, (before, out) in after.items():
                if out.grad is None:
                    raise InputError(
                        f"no gradient reaches layer {layer} of {type(model).__name__}; "
                        "choose its layers by another rule"
                    )
                moved = ((out.detach() - before) * out.grad).double().sum(-1)
                totals[layer] += float((moved.abs() * mask).sum())
            tokens += count
            after.clear()
    return totals / tokens


@torch.no_grad()
def layer_change(model: nn.Module, sample: Sample) -> Tensor:
    """(L,) float64: the mean length of what each layer adds to the residual stream.

    Source:
        ``E ||h_l - h_(l-1)||`` over a sample's tokens.
    """
    _, stack = layer_stack(model)
    totals, tokens = torch.zeros(len(stack), dtype=torch.float64), 0
    weights = torch.zeros(())

    def see(layer: int, before: Tensor, out: Tensor) -> None:
        totals[layer] += ((out - before).double().norm(dim=-1) * weights).sum()

    with _watched(model, see):
        for ids, weights in sample.batches:
            _forward(model, ids)
            tokens += int(weights.sum())
    return totals / tokens


@torch.no_grad()
def input_worth(
    model: nn.Module, sample: Sample, places: Collection[str]
) -> dict[str, Tensor]:
    """What the sums of some linear layers owe each of their input channels.

    Args:
        model: a causal ``PreTrainedModel``.
        sample: text that it reads; padding counts for nothing.
        places: names of the linear layers.

    Returns:
        By name (C,) float64 >= 0: ``E|x_c| ||W[:, c]||``.
    """
    totals: dict[str, Tensor] = {}
    tokens, weights = 0, torch.zeros(())
    handles = []
    for place in places:

        def hook(_: nn.Module, args: Any, place: str = place) -> None:
            read = args[0].flatten(0, -2).double().abs()
            summed = (read * weights.flatten()[:, None]).sum(0)
            totals[place] = totals.get(place, torch.zeros(())) + summed

        part = model.get_submodule(place)
        handles.append(part.register_forward_pre_hook(hook))
    try:
        for ids, weights in sample.batches:
            _forward(model, ids)
            tokens += int(weights.sum())
    finally:
        for handle in handles:
            handle.remove()
    return {
        place: total / tokens * _lengths(model.get_submodule(place), len(total))
        for place, total in totals.items()
    }


@torch.no_grad()
def search(model: nn.Module, sample: Sample, count: int) -> list[int]:
    """Leave out layer after layer, each time the one that the text misses least.

    Args:
        model: a causal ``PreTrainedModel``.
        sample: text that it is judged by.
        count: how many layers are kept.

    Returns:
        Their numbers, ascending. It takes about (L² - count²) / 2 readings of the
        sample.
    """
    _, stack = layer_stack(model)
    kept = list(range(len(stack)))
    while len(kept) > count:
        losses = {}
        for layer in kept:
            with _without(model, {*range(len(stack))} - {*kept} | {layer}):
                losses[layer] = float(mean_loss(model, sample))
        kept.remove(min(kept, key=losses.__getitem__))
    return kept


def _lengths(linear: nn.Module, inputs: int) -> Tensor:
    """(C,) float64: the length of each input channel's weights."""
    weight: Any = linear.weight
    if type(linear).__name__ == "Conv1D":  # GPT-2's, (in, out)
        weight = weight.T
    assert weight.shape[1] == inputs, "a linear layer reads its inputs"
    lengths: Tensor = weight.double().norm(dim=0)
    return lengths


def _summed_loss(model: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, int]:
    logits = _forward(model, ids)[:, :-1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    predicted = mask[:, 1:]
    loss = F.cross_entropy(logits[predicted], ids[:, 1:][predicted], reduction="sum")
    return loss, int(predicted.sum())


def _forward(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits; padding is on the right, where no real token looks, and needs no mask
    (some libraries' masks leave a window of padding alone nothing to look at: NaN)."""
    whole: Any = model
    logits: Tensor = whole(input_ids=ids, use_cache=False).logits
    return logits


@contextmanager
def _watched(model: nn.Module, see: Seen) -> Iterator[None]:
    """See what goes into each layer and what comes out."""
    _, stack = layer_stack(model)
    handles = []
    for layer, module in enumerate(stack):

        def hook(
            _: nn.Module, args: Any, kwargs: Any, out: Any, layer: int = layer
        ) -> None:
            see(layer, _stream(args, kwargs), out[0] if isinstance(out, tuple) else out)

        handles.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without(model: nn.Module, left_out: Collection[int]) -> Iterator[None]:
    """Let the residual stream pass by some layers."""
    _, stack = layer_stack(model)

    def hook(_: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        stream = _stream(args, kwargs)
        return (stream, *out[1:]) if isinstance(out, tuple) else stream

    handles = [
        stack[layer].register_forward_hook(hook, with_kwargs=True) for layer in left_out
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _reaching(model: nn.Module) -> Iterator[None]:
    """Let gradients reach all layers of a model that is frozen, and leave none."""
    whole: Any = model
    weight = whole.get_input_embeddings().weight
    trained, grad = weight.requires_grad, weight.grad
    weight.requires_grad_(True)
    try:
        yield
    finally:
        weight.requires_grad_(trained)
        weight.grad = grad


def _stream(args: Any, kwargs: Any) -> Tensor:
    """The hidden states that a layer is given."""
    given: Tensor = args[0] if args else kwargs["hidden_states"]
    return given
