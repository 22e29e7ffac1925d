"""Make one set of keys and values from several teachers'.

Everything here expects teachers that already share one shape: aligned in time,
mapped in depth, adapted in width. Averages in different bases mean nothing, so
calibrate the adapters first, or weight the losses (``weigh_losses``).

Who learns from what: a router trained by the distance between student and
fused KV learns to prefer the teacher that is easiest to copy. Hence targets are
fused, then detached (``fuse_kvs_learnable(...).kv.detach()``), losses are weighted
by detached weights (``weigh_losses`` sees to it), and the router's gradient
comes from the outcome (the student's next-token loss while it reads the fused
KV) or from ``expected_teacher_loss``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from align.kv import KV
from fuse.config import check_weights
from fuse.routers.router import LearnableRouter
from fuse.routing_loss import EntropyRegularizer
from teacher.router_proto import compute_routing_weights

__all__ = [
    "EntropyRegularizer",
    "Fused",
    "LearnableRouter",
    "fuse_kvs_fixed",
    "fuse_kvs_learnable",
    "fuse_kvs_similarity",
    "fuse_with_weights",
]

Fusable = TypeVar("Fusable", KV, Tensor)
"""A ``KV``, or a tensor (L, B, H, T, D), flat (L, B, T, C) or one layer (B, T, C)."""


class Fused(NamedTuple, Generic[Fusable]):
    """What several teachers became, and how much each had a say."""

    kv: Fusable
    """What was given: a ``KV``, or a tensor of the same shape and dtype."""
    weights: Tensor
    """(B, M) per text or (B, T, M) per token, as they were asked for: teachers that
    cover no text of a token are left out of ``kv``, not of these."""


def fuse_kvs_fixed(
    kvs_list: Sequence[Fusable], weights: Sequence[float] | Tensor | None = None
) -> Fusable:
    """Average teachers with constant shares; in a run, ``FixedRouter``.

    Args:
        kvs_list: M teachers of one shape, see :data:`Fusable`.
        weights: M numbers >= 0 of any scale; None: equal shares.

    Returns:
        What was given: a ``KV``, or a tensor of the same shape and dtype.

    Raises:
        ValueError: shapes differ, or the weights are not M usable numbers.
    """
    values = [1.0] * len(kvs_list) if weights is None else _as_floats(weights)
    if len(values) != len(kvs_list):
        raise ValueError(
            f"weights has {len(values)} entries for {len(kvs_list)} teachers; "
            "give one weight per teacher"
        )
    if values:
        check_weights("weights", values)
    return fuse_with_weights(kvs_list, torch.tensor(values))


def fuse_kvs_similarity(
    kvs_list: Sequence[Fusable],
    query: Tensor,
    prototypes: Tensor,
    temperature: float = 1.0,
    similarity: str = "cosine",
) -> Fused[Fusable]:
    """Average teachers by how near their prototypes lie to the query.

    In a run a ``SimilarityRouter`` weighs and bridges call :func:`fuse_with_weights`.

    Args:
        kvs_list: M teachers of one shape, see :data:`Fusable`.
        query: (B, C) per text or (B, T, C) per token.
        prototypes: (M, C), or (M, K, C) with K clusters per teacher.
        temperature: > 0; lower is sharper.
        similarity: cosine, dot or l2.

    Returns:
        The average, and the weights (B, M) or (B, T, M) that made it, which sum to 1.

    Raises:
        ValueError: shapes differ, or the scores' own checks fail.
    """
    weights = compute_routing_weights(
        query, prototypes, temperature=temperature, similarity=similarity
    )
    return Fused(fuse_with_weights(kvs_list, weights), weights)


def fuse_kvs_learnable(
    kvs_list: Sequence[Fusable], query: Tensor, router: nn.Module
) -> Fused[Fusable]:
    """Average teachers by a trained router's weights; in a run, a ``Weigher`` asks it.

    Both carry a gradient to the router: inject the average and train by the outcome,
    but ``.kv.detach()`` it before using it as a target.

    Args:
        kvs_list: M teachers of one shape, see :data:`Fusable`.
        query: (B, C) per text or (B, T, C) per token.
        router: maps queries to weights (..., M), such as a ``LearnableRouter``.

    Returns:
        The average, and the router's weights (B, M) or (B, T, M).

    Raises:
        ValueError: shapes differ, or the router answers for other teachers.
    """
    weights = router(query)
    return Fused(fuse_with_weights(kvs_list, weights), weights)


def fuse_with_weights(kvs_list: Sequence[Fusable], weights: Tensor) -> Fusable:
    """Average teachers with given weights, over those that cover each token.

    Weights are divided by their sum over the teachers whose mask holds, so a
    teacher without text for a token neither votes nor dilutes. A token's fused
    mask holds where some teacher with weight covers it; elsewhere the result is
    exactly zero. Tensors have no masks: every teacher covers every token.

    Args:
        kvs_list: M teachers of one shape, see :data:`Fusable`.
        weights: (M,), (B, M), (B, T, M) or (L, B, T, M), >= 0.

    Returns:
        What was given: a ``KV`` (masks of all layers united), or a tensor.
        Sums are float32, the result has the first teacher's dtype.

    Raises:
        ValueError: no teachers, shapes differ, or weights of another shape.
    """
    first = _check_same_shape(kvs_list)
    if isinstance(first, KV):
        kvs = [kv for kv in kvs_list if isinstance(kv, KV)]
        masks = torch.stack([kv.mask for kv in kvs], dim=-1)  # (B, T, M)
        w = _normalise(weights, first.k, len(kvs), masks)
        return KV(
            _weighted_sum([kv.k for kv in kvs], w, masks),
            _weighted_sum([kv.v for kv in kvs], w, masks),
            w.sum(-1).amax(0) > 0,
        )
    tensors = [x for x in kvs_list if isinstance(x, Tensor)]
    w = _normalise(weights, first, len(tensors), None)
    return _weighted_sum(tensors, w, None)


def _as_floats(weights: Sequence[float] | Tensor) -> list[float]:
    return [float(w) for w in weights]


def _check_same_shape(kvs_list: Sequence[Fusable]) -> Fusable:
    if not kvs_list:
        raise ValueError("kvs_list is empty; give the KV of at least one teacher")
    first = kvs_list[0]
    if not isinstance(first, KV | Tensor):
        raise ValueError(
            f"kvs_list[0] is a {type(first).__name__}; give KV, or tensors "
            "(L, B, H, T, D), (L, B, T, C) or (B, T, C)"
        )
    if isinstance(first, Tensor) and first.dim() not in (3, 4, 5):
        raise ValueError(
            f"kvs_list[0] has shape {tuple(first.shape)}; give (L, B, H, T, D), "
            "(L, B, T, C) or (B, T, C)"
        )
    for index, other in enumerate(kvs_list):
        if type(other) is not type(first) or _shape(other) != _shape(first):
            raise ValueError(
                f"kvs_list[{index}] is {type(other).__name__} {_shape(other)}, but "
                f"kvs_list[0] is {type(first).__name__} {_shape(first)}; align in "
                "time, map layers and adapt heads before fusing"
            )
    return first


def _shape(x: KV | Tensor) -> tuple[tuple[int, ...], ...]:
    if isinstance(x, KV):
        return (tuple(x.k.shape), tuple(x.v.shape))
    return (tuple(x.shape),)


def _normalise(
    weights: Tensor, like: Tensor, num_teachers: int, masks: Tensor | None
) -> Tensor:
    """Weights (1 or L, B or 1, T or 1, M) float32 that sum to 1, or 0 if none."""
    headed = like.dim() == 5
    layers = like.shape[0] if like.dim() > 3 else 1
    batch, tokens = like.shape[1 if like.dim() > 3 else 0], like.shape[-2]
    shapes = [
        (num_teachers,),
        (batch, num_teachers),
        (batch, tokens, num_teachers),
        (layers, batch, tokens, num_teachers),
    ]
    if tuple(weights.shape) not in shapes:
        kind = "(L, B, H, T, D)" if headed else "(L, B, T, C)"
        raise ValueError(
            f"weights have shape {tuple(weights.shape)} for {num_teachers} teachers "
            f"with {kind} = {tuple(like.shape)}; give (M,), (B, M), (B, T, M) or "
            f"(L, B, T, M): one of {shapes}"
        )
    w = weights.to(like.device).float()
    if w.dim() == 2:
        w = w[:, None]  # (B, 1, M)
    w = w.reshape((1,) * (4 - w.dim()) + tuple(w.shape))
    if masks is not None:
        w = w * masks  # (1 or L, B, T, M)
    total = w.sum(-1, keepdim=True)
    return w / torch.where(total > 0, total, torch.ones_like(total))


def _weighted_sum(xs: list[Tensor], w: Tensor, masks: Tensor | None) -> Tensor:
    headed, one_layer = xs[0].dim() == 5, xs[0].dim() == 3
    total: Tensor | None = None
    for m, x in enumerate(xs):
        share = w[..., m, None]  # (L, B, T, 1)
        share = share[0] if one_layer else share
        share = share.unsqueeze(2) if headed else share  # (L, B, 1, T, 1)
        if masks is not None:  # padding may hold anything, NaN included
            covered = masks[..., m, None]
            x = torch.where(covered[:, None] if headed else covered, x, 0.0)
        x = x.float()
        total = share * x if total is None else torch.addcmul(total, share, x)
    assert total is not None
    return total.to(xs[0].dtype)
