"""What a transform of a student promises, and what most share: changed weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from align.errors import InputError
from align.products.autocast import without_autocast
from align.support.matrices import lies_on_its_side, trained_weight
from align.support.text_part import linear_in, named_layers, text_modules
from align.tokens.batch import TokenBatch

Targets = Literal["auto"] | list[str]
"""Layers by the ends of their names; ``auto``: every linear layer but the head."""


class StudentTransform:
    """What a student computes by while it trains; subclass it.

    It is put on a model once a phase, as strength 0, and moved before every optimiser
    step and after the last. At strength 0 no bit of any answer is another.
    """

    def attach(self, model: nn.Module) -> None:
        """Put it on a student, in place.

        The student's parameters stay the objects that they are. What is learned or
        remembered beside them lies in parameters and buffers inside the model, and
        weights are changed through ``torch.nn.utils.parametrize`` alone, so that what
        is exported are the weights that the student computes by in evaluation.

        Raises:
            InputError: it does not fit this model.
        """
        raise NotImplementedError

    def at(self, strength: float, step: int) -> None:
        """Be as strong as this from here on.

        Args:
            strength: in [0, 1].
            step: optimiser steps taken in this phase.
        """
        raise NotImplementedError

    def recall(self) -> None:
        """Be as strong as the buffers say, after they were put back."""

    def finish(self, model: Any, batches: Iterable[TokenBatch]) -> None:
        """Do what comes after the last step, at the strength that it left.

        Args:
            model: the student, in evaluation mode.
            batches: a sample of what it learned from; reading it costs a forward.
        """

    def says(self) -> str:
        """What it is on, in words, once attached: ``14 layers``; may be empty."""
        return ""


class WeightTransform(StudentTransform):
    """The matrices of linear layers, changed: ``W + strength (changed(W) - W)``.

    A subclass says ``changed``, or in ``made_for`` a module for each layer that learns
    or remembers something.
    """

    keeps_zeros: ClassVar[bool] = False
    """Whether a weight that is zero stays zero: where not, it is refused behind a
    transform that prunes."""

    def __init__(self, targets: Targets = "auto") -> None:
        """Take which layers.

        Args:
            targets: ends of names, such as ``[q_proj, v_proj]``.
        """
        self.targets = targets
        self.changed_layers: list[tuple[Any, Blended]] = []
        """Each layer that it is on, with what changes its weight."""

    def changed(self, weight: Tensor) -> Tensor:
        """What the layer computes by at strength 1.

        Args:
            weight: (out, in) float32 or wider, with a gradient.

        Returns:
            The same shape, finite; its gradient reaches ``weight``.
        """
        raise NotImplementedError

    def made_for(self, weight: Tensor, name: str) -> nn.Module:
        """A module that maps a layer's weight as :meth:`changed` does.

        What it learns is best a vector: matrices decay, and Muon would turn them.

        Args:
            weight: (out, in) as it stands, without a gradient.
            name: of the layer, for errors.
        """
        return _Changing(self)

    def attach(self, model: nn.Module) -> None:
        """Change the weights of the chosen layers, in place."""
        for name, layer in target_layers(model, self.targets):
            self._check_order(layer, name)
            upright = layer.weight.detach()
            upright = upright.T if lies_on_its_side(layer) else upright
            made = self.made_for(upright, name)
            blended = Blended(made, on_side=lies_on_its_side(layer))
            held = [*blended.parameters(), *blended.buffers()]
            if any(tensor.device != upright.device for tensor in held):
                blended.to(upright.device)  # fake tensors of a plan cannot be moved
            made.requires_grad_(layer.weight.requires_grad)
            parametrize.register_parametrization(layer, "weight", blended, unsafe=True)
            self.changed_layers.append((layer, blended))

    def _check_order(self, layer: Any, name: str) -> None:
        if self.keeps_zeros or not parametrize.is_parametrized(layer, "weight"):
            return
        if any(getattr(earlier.made, "prunes", False) for earlier in held_by(layer)):
            raise InputError(
                f"{name} is pruned before, and this transform fills what was; name it "
                "before the one that prunes"
            )

    def at(self, strength: float, step: int) -> None:
        """Move all layers' strength."""
        for _, blended in self.changed_layers:
            blended.move(strength)

    def recall(self) -> None:
        """Take the strength that a restored buffer says."""
        for _, blended in self.changed_layers:
            blended.value = float(blended.strength)

    def says(self) -> str:
        """How many layers and weights, and how many numbers are held beside them."""
        weights = sum(trained_weight(layer).numel() for layer, _ in self.changed_layers)
        held = [blended.made for _, blended in self.changed_layers]
        learned = sum(p.numel() for made in held for p in made.parameters())
        kept = sum(b.numel() for made in held for b in made.buffers())
        beside = [
            f"{count:,} numbers {what}"
            for count, what in ((learned, "learned"), (kept, "kept"))
            if count
        ]
        layers = f"{len(self.changed_layers)} layers, {weights:,} weights"
        return f"{layers}, {' and '.join(beside)} beside them" if beside else layers


class _Changing(nn.Module):
    """A transform that remembers nothing of a layer."""

    def __init__(self, transform: WeightTransform) -> None:
        super().__init__()
        self._transform = transform

    def forward(self, weight: Tensor) -> Tensor:
        return self._transform.changed(weight)


class Blended(nn.Module):
    """A weight between itself and what is made of it."""

    strength: Tensor
    made: Any

    def __init__(self, made: nn.Module, *, on_side: bool) -> None:
        """Begin at strength 0.

        Args:
            made: maps (out, in) to (out, in).
            on_side: whether the layer holds (in, out).
        """
        super().__init__()
        self.made, self._on_side = made, on_side
        self.value = 0.0
        self.register_buffer("strength", torch.zeros((), dtype=torch.float64))

    def move(self, strength: float) -> None:
        """Be so strong from here on; the buffer is what a checkpoint keeps."""
        if strength != self.value:
            self.value = strength
            self.strength.fill_(strength)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight itself at strength 0; computed in float32 or wider."""
        if self.value == 0:
            return weight
        with without_autocast(weight):
            wide = weight if weight.dtype == torch.float64 else weight.float()
            upright = wide.T if self._on_side else wide
            changed: Tensor = self.made(upright)
            if self.value != 1:
                changed = torch.lerp(upright, changed, self.value)
            changed = changed.T if self._on_side else changed
            return changed.to(weight.dtype)


def held_by(layer: Any) -> Iterator[Blended]:
    """What changes a layer's weight, in order."""
    changes: Any = layer.parametrizations["weight"]
    yield from changes


def target_layers(model: Any, targets: Targets) -> Iterator[tuple[str, Any]]:
    """The linear layers that read text, by name; never the head.

    Args:
        model: a causal model of transformers.
        targets: ends of names, or ``auto``.

    Raises:
        InputError: no layer is called so; or weights of experts lie in one tensor,
            which no linear layer is.
    """
    head = model.get_output_embeddings()
    modules = text_modules(model)
    joined = [
        f"{name}.{key}"
        for name, module in modules.items()
        for key, parameter in module.named_parameters(recurse=False)
        if parameter.dim() > 2
    ]
    if joined:
        raise InputError(
            f"{joined[0]} holds the weights of several layers in one tensor, as "
            f"mixtures of experts do, which no transform of weights reaches in "
            f"{type(model).__name__}; leave it out"
        )
    others = {n: m for n, m in linear_in(modules).items() if m is not head}
    if targets != "auto":
        others = named_layers(targets, others, model, "targets")
    yield from others.items()
