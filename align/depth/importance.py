"""Choose teacher layers by what its own loss would miss."""

from __future__ import annotations

import torch
from torch import Tensor

from align.errors import InputError
from align.layer_map import LayerMap, floor
from align.layer_similarity import LayerSimilarity, SampledLayers


class ImportantLayers(SampledLayers):
    """The layer map ``importance``: the layers that the teacher needs most.

    Source:
        Layer matching by Taylor importance, ``|h · ∂L/∂h|``, of the teacher's own
        next-token loss. Departure: h is what a layer adds to the residual stream, not
        the stream, most of which is there without the layer, too; see
        :attr:`align.layer_similarity.LayerSimilarity.importance`.
    """

    needs_importance = True

    def choose(self, sample: LayerSimilarity) -> LayerMap:
        """See :meth:`align.layer_similarity.SampledLayers.choose`."""
        if sample.importance is None:
            raise InputError("nobody measured how important the teacher's layers are")
        return importance_layer_map(sample.importance, len(sample.student))


def importance_layer_map(importance: Tensor, num_student_layers: int) -> LayerMap:
    """The most important layers, from bottom to top.

    Args:
        importance: (L_t,) float >= 0; of equal ones the lower counts more.
        num_student_layers: L_s; a student that is no shallower reads all, by depth.

    Raises:
        InputError: a value is not finite.
    """
    if not bool(torch.isfinite(importance).all()):
        raise InputError("the importance of a teacher's layer is not finite")
    if num_student_layers >= len(importance):
        return floor(len(importance), num_student_layers)
    order = importance.argsort(descending=True, stable=True)[:num_student_layers]
    return LayerMap(tuple(((layer, 1.0),) for layer in sorted(order.tolist())))
