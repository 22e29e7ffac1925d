"""The maker ``ratio``: depth by a ratio, width by its square root."""

from __future__ import annotations

import math

from torch import nn

from align.errors import InputError
from teacher.making.base import Made, Sample
from teacher.making.layers import Layers, Rule
from teacher.making.parts import key_value_heads
from teacher.making.stack import depth_of
from teacher.making.width import Width, channels_of


class Ratio:
    """Cut depth first, by a ratio, then heads and channels by its square root.

    The residual stream keeps its width, so that what is left fits together.
    """

    def __init__(
        self, *, ratio: float = 0.5, rule: Rule = "uniform", multiple: int = 1
    ) -> None:
        """Say how much is kept.

        Args:
            ratio: of the layers; of groups of heads and of feed-forward channels its
                square root, each rounded to the nearest, at least one.
            rule: which layers, as of the maker ``layers``.
            multiple: channels are rounded up to one of it.

        Raises:
            InputError: numbers that cannot be meant.
        """
        if not 0 < ratio <= 1:
            raise InputError(f"ratio is {ratio}; give one above 0, up to 1")
        self.ratio, self.layers, self.multiple = ratio, Layers(rule=rule), multiple
        Width(multiple=multiple)

    needs_sample = True

    def __call__(self, model: nn.Module, sample: Sample | None = None) -> Made:
        """See :meth:`teacher.making.base.StudentMaker.__call__`."""
        depth = max(1, round(self.ratio * depth_of(model)))
        deep = Layers(keep=depth, rule=self.layers.rule)(model, sample)
        root = math.sqrt(self.ratio)
        groups = key_value_heads(deep.model.config)
        wide = Width(
            channels=max(1, round(root * channels_of(model))),
            groups=max(1, round(root * groups)),
            multiple=self.multiple,
        )(deep.model, sample)
        done = f"{deep.done}; {wide.done}"
        return Made(model=wide.model, layers=deep.layers, done=done)
