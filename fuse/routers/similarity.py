"""A router that learns nothing: the nearest prototype draws the most weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from align.support.field_types import AtLeastOne, Positive, checked
from teacher.names import PrototypeMethod, Similarity
from teacher.router_proto import (
    compute_multi_teacher_prototypes,
    compute_routing_weights,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RoutingSample:
    """What the calibration sample says to a router before its phase begins."""

    hidden: Tensor
    """(N, C) float32, the student's mean hidden state of each text."""
    bits: Tensor
    """(N, M) float32, each teacher's bits per character; NaN where it has none."""


class SimilarityRouter(nn.Module):
    """Softmax of the similarity between the student's state and prototypes."""

    learns = False
    needs_sample = True
    prototypes: Tensor
    """(M, C), or (M, K, C), around the centre; 0 before :meth:`fit`."""
    centre: Tensor
    """(C,) taken off every query: hidden states share a large common part, beside
    which all cosines look alike."""

    def __init__(
        self,
        hidden_dim: int,
        num_teachers: int,
        *,
        temperature: float = 1.0,
        similarity: Similarity = "cosine",
        prototype_method: PrototypeMethod = "mean",
        num_clusters: int = 4,
    ) -> None:
        """Hold no prototypes yet: all weights are equal.

        Args:
            hidden_dim: C.
            num_teachers: M.
            temperature: > 0; lower is sharper.
            similarity: of a query and a prototype.
            prototype_method: how a teacher's is made from its home texts.
            num_clusters: prototypes per teacher of ``kmeans``, >= 1.

        Raises:
            InputError: a number out of range.
        """
        super().__init__()
        checked(Positive, temperature, "temperature")
        checked(AtLeastOne, num_clusters, "num_clusters")
        self.temperature, self.similarity = temperature, similarity
        self.method, self.num_clusters = prototype_method, num_clusters
        self.register_buffer("prototypes", torch.zeros(num_teachers, hidden_dim))
        self.register_buffer("centre", torch.zeros(hidden_dim))

    @torch.no_grad()
    def fit(self, sample: RoutingSample) -> None:
        """Make prototypes in the student's hidden space, of each teacher's home texts.

        A teacher's home is the third of the sample that it reads best compared with the
        other teachers (bits per character). A teacher without a loss of its own is at
        home everywhere.
        """
        centre = sample.hidden.mean(0)
        centred = sample.hidden - centre
        centres = compute_multi_teacher_prototypes(
            [centred[home] for home in home_texts(sample.bits)],
            method=self.method,
            num_clusters=self.num_clusters,
        )
        self.prototypes, self.centre = centres.float(), centre.float()

    def forward(self, query: Tensor) -> Tensor:
        """(..., C) float -> (..., M) float32, summing to 1 over M."""
        return compute_routing_weights(
            query.float() - self.centre,
            self.prototypes,
            temperature=self.temperature,
            similarity=self.similarity,
        )


def home_texts(bits: Tensor) -> list[Tensor]:
    """For each teacher the texts it reads best compared with the others.

    Args:
        bits: (N, M) bits per character, NaN for teachers that have none.

    Returns:
        M index tensors, a third of the texts each (all where bits are NaN).
    """
    count, teachers = bits.shape
    everywhere = torch.arange(count, device=bits.device)
    keep = max(1, count // 3)
    homes = []
    for m in range(teachers):
        others = torch.cat([bits[:, :m], bits[:, m + 1 :]], 1)
        known = ~others.isnan().all(1)  # none where there are no others
        if not others.shape[1]:
            known = torch.zeros_like(known)
        if bits[:, m].isnan().any() or not bool(known.all()):
            homes.append(everywhere)
            continue
        best = others.nan_to_num(nan=float("inf")).amin(1)
        homes.append((bits[:, m] - best).argsort()[:keep])
    return homes
