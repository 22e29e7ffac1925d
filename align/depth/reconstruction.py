"""Choose teacher layers by what can be rebuilt of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.layer_map import LayerMap
from align.layer_similarity import (
    LayerSimilarity,
    SampledLayers,
    gram,
    similarity_layer_map,
)

RIDGE = 0.01
"""Strength of the regression, as a share of the mean squared length of a token's
features."""


class RebuiltLayers(SampledLayers):
    """The layer map ``reconstruction``: the monotone path of layers that the student's
    features rebuild best by a linear map.

    Source:
        Layer matching by reconstruction and dynamic programming. Departures: the linear
        map is solved in closed form (ridge), not trained, and judged by each token's
        error where the map has not seen it, or the widest layer would win.
    """

    def choose(self, sample: LayerSimilarity) -> LayerMap:
        """See :meth:`align.layer_similarity.SampledLayers.choose`."""
        return similarity_layer_map(reconstruction(sample.student, sample.teacher))


def reconstruction(
    student: Sequence[Tensor] | Tensor,
    teacher: Sequence[Tensor] | Tensor,
    ridge: float = RIDGE,
) -> Tensor:
    """How much of each teacher layer each student layer explains, of unseen tokens.

    Args:
        student: L_s of (n, C_s) float features.
        teacher: L_t of (n, C_t) float, of the same tokens.
        ridge: strength, as a share of the mean squared length of a token's features.

    Returns:
        (L_t, L_s) float64 at most 1: 1 - the leave-one-out error of a ridge regression
        over the layer's variance. It is below 0 where the mean does better, and 0 of a
        teacher layer that does not vary.

    Source:
        Allen's PRESS (1974): leaving token i out, its residual is ``r_i / (1 - h_ii)``
        of the hat matrix ``H = K (K + ridge)⁻¹`` over centred features, the mean's
        share 1 / n included. All tokens' errors come from one eigendecomposition a
        student layer, whatever the widths.
    """
    targets = [gram(layer, standardize=True) for layer in teacher]
    columns = []
    for layer in student:
        inner = gram(layer, standardize=True)
        size = len(inner)
        values, vectors = torch.linalg.eigh(inner)
        values = values.clamp_min(0)
        kept = values / (values + max(ridge * float(values.mean()), 1e-300))
        hat = vectors * kept @ vectors.T + 1 / size
        unseen = (torch.eye(size).to(hat) - hat) / (1 - hat.diagonal())[:, None]
        errors = unseen.T @ unseen  # trace(errors @ K) = squared errors of K's features
        columns.append(
            torch.stack(
                [
                    1 - (errors * target).sum() / target.trace()
                    if float(target.trace()) > 0
                    else target.new_zeros(())
                    for target in targets
                ]
            )
        )
    return torch.stack(columns, dim=1)
