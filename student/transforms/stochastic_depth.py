"""Layers left out at random while the student trains."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from align.errors import InputError
from align.support.field_types import ShareBelowOne
from align.support.text_part import text_modules
from student.transforms.base import StudentTransform


class StochasticDepth(StudentTransform):
    """What a layer adds to the residual stream is left out, text by text.

    Source:
        Huang et al. 2016 (arXiv 1603.09382), with linear decay: layer l of L is left
        out with probability ``strength * drop * l / L``. Departures: what stays is
        divided by the probability to stay while training, in place of multiplying by it
        afterwards, so that the exported student is a plain one; each text draws by
        itself; and layers are computed all the same, as their keys and values are
        compared: no time is saved.
    """

    def __init__(self, *, drop: ShareBelowOne = 0.2) -> None:
        """Take how often.

        Args:
            drop: probability that the uppermost layer is left out, in [0, 1).
        """
        self.drop = drop
        self._strength = 0.0
        self._layers = 0

    def attach(self, model: nn.Module) -> None:
        """Listen to every layer's output, in training alone.

        Raises:
            InputError: the model's layers are in no one list.
        """
        layers = decoder_layers(model)
        self._layers = len(layers)
        for number, layer in enumerate(layers, 1):
            layer.register_forward_hook(
                partial(self._left_out, share=number / len(layers)), with_kwargs=True
            )

    def at(self, strength: float, step: int) -> None:
        """Leave out so often from here on."""
        self._strength = strength

    def says(self) -> str:
        """How many layers."""
        return f"{self._layers} layers"

    def _left_out(
        self, layer: nn.Module, args: Any, kwargs: Any, output: Any, *, share: float
    ) -> Any:
        rate = self._strength * self.drop * share
        if not layer.training or rate == 0:
            return None
        before = args[0] if args else kwargs["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        mixed = mix(before, after, rate)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed


def mix(before: Tensor, after: Tensor, rate: float) -> Tensor:
    """Leave out what a layer adds, for some texts.

    Args:
        before: (B, T, C) residual stream below the layer.
        after: above it.
        rate: probability to be left out, in [0, 1).

    Returns:
        (B, T, C), in expectation ``after``.
    """
    shape = (len(before), *[1] * (before.dim() - 1))
    stays = torch.rand(shape, device=before.device) >= rate
    return before + (after - before) * (stays.to(before.dtype) / (1 - rate))


def decoder_layers(model: Any) -> nn.ModuleList:
    """The stack of layers through which a text runs.

    Raises:
        InputError: there is no list of as many modules as the config says.
    """
    depth = model.config.get_text_config().num_hidden_layers
    stacks = [
        module
        for module in text_modules(model).values()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if not stacks:
        raise InputError(
            f"{type(model).__name__} has no list of its {depth} layers; leave "
            "stochastic_depth out"
        )
    return stacks[0]
