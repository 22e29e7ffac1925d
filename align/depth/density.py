"""Choose teacher layers by where the teacher changes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from align.layer_map import LayerMap
from align.layer_similarity import LayerSimilarity, SampledLayers, gram


class DenseLayers(SampledLayers):
    """The layer map ``density``: more layers where the teacher changes more.

    Student layers lie evenly along the way that the teacher's features go from layer
    to layer, bottom to bottom and top to top; each reads the nearest teacher layer.

    Source:
        The mean change of hidden states per layer, as progressive distillation has it.
        Departure: keys and values of two layers have bases of their own, in which a
        difference means nothing, so a step is as long as the angle whose cosine is the
        layers' CKA, which no rotation changes.
    """

    def choose(self, sample: LayerSimilarity) -> LayerMap:
        """See :meth:`align.layer_similarity.SampledLayers.choose`."""
        return density_layer_map(layer_steps(sample), len(sample.student))


def layer_steps(sample: LayerSimilarity) -> Tensor:
    """(L_t - 1,) float64 in [0, pi/2], the angle from each teacher layer to the next.

    A layer that does not vary is as far from all others as can be.
    """
    grams = [gram(layer, standardize=True) for layer in sample.teacher]
    steps = [
        (below * above).sum().clamp(0, 1).arccos() for below, above in pairwise(grams)
    ]
    return torch.stack(steps) if steps else torch.zeros(0, dtype=torch.float64)


def density_layer_map(steps: Tensor, num_student_layers: int) -> LayerMap:
    """Lay the student's layers evenly along a teacher's way.

    Args:
        steps: (L_t - 1,) float >= 0, how far each of the teacher's layers is from the
            one below; all equal ones, zeros included, spread the layers evenly.
        num_student_layers: L_s; one alone reads the top.

    Returns:
        The nearest teacher layer for each student layer, the lower of two.
    """
    if not bool((steps > 0).any()):
        steps = torch.ones_like(steps)
    places = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    last = num_student_layers - 1
    shares = [index / last for index in range(last + 1)] if last else [1.0]
    layers = [int((places - share * places[-1]).abs().argmin()) for share in shares]
    return LayerMap(tuple(((layer, 1.0),) for layer in layers))
