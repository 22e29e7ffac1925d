"""Which of the student's layers a term compares, and how much each counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from align.errors import InputError

LayerWeights = Literal["equal", "depth", "gradient"]
Layers = str | list[int]
"""``all``, ``last:K``, ``random:K``, ``rising:STEPS``, ``gradient:K``, ``probe:K``, or
numbers, of which -1 is the last layer's."""

_SOME = re.compile(r"(last|random|rising|gradient|probe):([1-9][0-9]*)")


def check_layers(layers: Layers, num_layers: int | None = None) -> None:
    """See that layers are meant that there are.

    Args:
        layers: as a config says it.
        num_layers: L of the student; None while nobody knows it.

    Raises:
        InputError: they are not, or none is.
    """
    if isinstance(layers, str):
        some = _SOME.fullmatch(layers)
        if layers != "all" and some is None:
            raise InputError(
                f"layers is {layers!r}; give all, last:K, random:K, rising:STEPS, "
                "gradient:K, probe:K or a list of layer numbers"
            )
        counted = some is not None and some[1] != "rising"
        if some and counted and num_layers is not None and int(some[2]) > num_layers:
            raise InputError(
                f"layers is {layers!r}, but the student has {num_layers} layers"
            )
        return
    if not layers or len(set(layers)) < len(layers):
        raise InputError(f"layers is {layers}; give one layer or more, each once")
    if num_layers is None:
        return
    beyond = [layer for layer in layers if not -num_layers <= layer < num_layers]
    if beyond:
        raise InputError(
            f"layers asks for layer {beyond[0]}, but the student has layers "
            f"0..{num_layers - 1}, or -1..{-num_layers} from the top"
        )
    if len({layer % num_layers for layer in layers}) < len(layers):
        raise InputError(f"layers is {layers}, which names a layer twice")


def chosen_layers(layers: Layers, num_layers: int, step: int) -> list[int]:
    """The student's layers that are compared in one optimiser step, ascending.

    Args:
        layers: as a config says it.
        num_layers: L.
        step: of the phase, from 0. ``random:K`` draws anew for each, alike in all
            passes and processes; ``rising:STEPS`` begins with the lowest layer and
            goes up evenly, all layers from step ``STEPS - 1`` on. Which ``gradient:K``
            are, :class:`GradientLengths` knows, and which ``probe:K``, the calibration
            sample; here they are all.
    """
    if layers == "all" or str(layers).startswith(("gradient", "probe")):
        return list(range(num_layers))
    if not isinstance(layers, str):
        return sorted(layer % num_layers for layer in layers)
    some = _SOME.fullmatch(layers)
    assert some is not None
    count = int(some[2])
    if some[1] == "last":
        return list(range(num_layers - count, num_layers))
    if some[1] == "rising":
        reached = -(-num_layers * (step + 1) // count)  # rounded up
        return list(range(min(reached, num_layers)))
    generator = torch.Generator().manual_seed(step)
    drawn = torch.randperm(num_layers, generator=generator)[:count]
    return sorted(drawn.tolist())


def varies(layers: Layers) -> bool:
    """Whether the layers that are compared are others from step to step."""
    return str(layers).startswith(("random", "rising", "gradient", "probe"))


def by_gradient(layers: Layers, weights: LayerWeights) -> bool:
    """Whether gradients say which layers are compared, or how much they count."""
    return weights == "gradient" or str(layers).startswith("gradient")


def by_probe(layers: Layers) -> bool:
    """Whether a look at the calibration sample says which layers are compared."""
    return str(layers).startswith("probe")


def layer_shares(weights: LayerWeights, chosen: Sequence[int], like: Tensor) -> Tensor:
    """How much each of the chosen layers counts, (L',) summing to 1.

    Args:
        weights: ``equal``, or ``depth``: in proportion to the layer's number from 1;
            of ``gradient`` :class:`GradientLengths` knows.
        chosen: numbers from 0.
        like: gives device and dtype.
    """
    shares = torch.tensor(
        [1.0 if weights == "equal" else layer + 1.0 for layer in chosen],
        device=like.device,
        dtype=like.dtype,
    )
    return shares / shares.sum()
