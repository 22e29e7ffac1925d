"""Prototypes of teachers, and how near a student's state is to each.

A prototype is what a teacher's features look like on average (or in a few
clusters); a query near it is given to that teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from align.kv import KV
from align.products.autocast import without_autocast
from align.support.field_types import checked
from teacher.names import PrototypeMethod, Similarity

Features = KV | Sequence[KV] | Tensor


def compute_multi_teacher_prototypes(
    kvs_list: Sequence[Features],
    method: str = "mean",
    num_clusters: int = 4,
    seed: int = 0,
) -> Tensor:
    """Summarise what each teacher's features look like.

    Args:
        kvs_list: for each of M teachers a KV, a list of KV, or features (N, C) or
            (B, T, C). The feature of a KV's token is its keys averaged over
            layers, then its values, H * D_k + H * D_v wide; padding takes no part.
        method: "mean" of all tokens; "cls", the mean over texts of the first real
            token ((N, C) features: of every row); "kmeans", cluster centres.
        num_clusters: K, only for "kmeans".
        seed: of k-means.

    Returns:
        (M, C) float32, or (M, K, C) for "kmeans".

    Raises:
        ValueError: an unknown method, widths that differ between teachers, a
            teacher without tokens, or fewer tokens than clusters.

    Source:
        Mean prototypes: Snell et al., Prototypical Networks, 2017; k-means: Lloyd
        1982, as scikit-learn has it.
    """
    checked(PrototypeMethod, method, "method")
    if len(kvs_list) == 0:
        raise ValueError("kvs_list is empty; give one entry per teacher")
    tokens = [_tokens(kvs, method == "cls") for kvs in kvs_list]
    widths = [x.shape[1] for x in tokens]
    if len(set(widths)) > 1:
        raise ValueError(
            f"teachers have feature widths {widths}; adapt their KV to one width "
            "first (align.MultiTeacherHeadDimAdapter)"
        )
    for index, x in enumerate(tokens):
        if len(x) == 0:
            raise ValueError(f"kvs_list[{index}] holds no real token")
    if method != "kmeans":
        return torch.stack([x.mean(dim=0) for x in tokens])
    return torch.stack(
        [_centres(i, x, num_clusters, seed) for i, x in enumerate(tokens)]
    )


def compute_routing_weights(
    student_hidden: Tensor,
    prototypes: Tensor,
    temperature: float = 1.0,
    similarity: str = "cosine",
) -> Tensor:
    """Weigh teachers by how near their prototypes are to the student.

    Args:
        student_hidden: (..., C) float, such as (B, C) or (B, T, C).
        prototypes: (M, C), or (M, K, C), of which each teacher's nearest counts.
        temperature: > 0; lower is sharper.
        similarity: "cosine"; "dot" (divided by sqrt(C)); "l2" (minus the squared
            distance, divided by C), so that none depends on the width.

    Returns:
        (..., M) float32, summing to 1, with gradient to both inputs.

    Raises:
        ValueError: an unknown similarity, temperature <= 0, or widths that differ.

    Source:
        Softmax over similarities: Snell et al. 2017; scaling of the dot product:
        Vaswani et al. 2017. Departure: recipes divide scores by their sum, which is
        no distribution where a score is negative.
    """
    checked(Similarity, similarity, "similarity")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if prototypes.ndim not in (2, 3):
        raise ValueError(
            f"prototypes have shape {tuple(prototypes.shape)}; give (M, C) or (M, K, C)"
        )
    width = prototypes.shape[-1]
    if student_hidden.shape[-1] != width:
        raise ValueError(
            f"student_hidden is {student_hidden.shape[-1]} wide, prototypes {width}; "
            "project one to the other's width first"
        )
    query, centres = student_hidden.float(), prototypes.float().flatten(0, -2)
    with without_autocast(query):
        scores = _scores(query, centres, similarity)  # (..., M * K)
    if prototypes.ndim == 3:
        scores = scores.unflatten(-1, prototypes.shape[:2]).amax(dim=-1)
    return (scores / temperature).softmax(dim=-1)


def _scores(query: Tensor, centres: Tensor, similarity: str) -> Tensor:
    width = query.shape[-1]
    if similarity == "cosine":
        return functional.normalize(query, dim=-1) @ functional.normalize(
            centres, dim=-1
        ).transpose(0, 1)
    if similarity == "dot":
        return query @ centres.transpose(0, 1) / width**0.5
    # |q|² is the same for every teacher, so the softmax does not see it.
    return (2 * query @ centres.transpose(0, 1) - centres.square().sum(-1)) / width


def _tokens(features: Features, first_only: bool) -> Tensor:
    """Float32 features (N, C) of the tokens that count."""
    if isinstance(features, Tensor):
        if features.ndim not in (2, 3):
            raise ValueError(
                f"features have shape {tuple(features.shape)}; give (N, C) or (B, T, C)"
            )
        if features.ndim == 3:
            features = features[:, 0] if first_only else features.flatten(0, 1)
        return features.float()
    kvs = [features] if isinstance(features, KV) else list(features)
    if not kvs:
        return torch.zeros((0, 0))
    return torch.cat([_kv_tokens(kv, first_only) for kv in kvs])


def _kv_tokens(kv: KV, first_only: bool) -> Tensor:
    k, v = kv.flat()
    states = torch.cat((k.float().mean(dim=0), v.float().mean(dim=0)), dim=-1)
    mask = kv.mask
    if first_only:
        mask = mask & (mask.cumsum(dim=1) == 1)
    return states[mask]


def _centres(index: int, x: Tensor, clusters: int, seed: int) -> Tensor:
    from sklearn.cluster import KMeans

    if clusters < 1 or len(x) < clusters:
        raise ValueError(
            f"kvs_list[{index}] has {len(x)} tokens for num_clusters={clusters}; "
            "give 1 <= num_clusters <= tokens"
        )
    clustering = KMeans(clusters, random_state=seed, n_init=4).fit(
        x.detach().cpu().numpy()
    )
    return torch.as_tensor(
        clustering.cluster_centers_, dtype=torch.float32, device=x.device
    )
