"""Pull the latents of several teachers together without emptying them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

Agreement = Literal["cosine", "mse"]
"""How two teachers' latents of one token are compared."""
VARIANCE_WEIGHT = 1.0
"""Of the floor under every direction's spread; invariance has weight 1."""
CORRELATION_WEIGHT = 1.0
"""Of the mean squared correlation between two directions of one teacher."""
_EPS = 1e-4


def agreement(
    latents: Sequence[Tensor], masks: Sequence[Tensor], kind: str = "mse"
) -> Tensor:
    """Distance between teachers on shared tokens, with floors against collapse.

    Three parts. Invariance: for every two teachers, on tokens both cover, either
    the squared difference of latents standardised over those tokens (``mse``) or
    1 - their cosine (``cosine``); neither shrinks when a latent shrinks. Variance:
    every direction of every teacher keeps a standard deviation of at least 1.
    Correlation: directions of one teacher stay uncorrelated, so that Z does not
    fall into one line.

    Args:
        latents: per teacher (L, B, T, Z) float.
        masks: per teacher (B, T) bool, tokens it covers.
        kind: ``mse`` or ``cosine``.

    Returns:
        Scalar float32, averaged over layers, directions, teachers and pairs; 0
        where fewer than two tokens are covered.

    Raises:
        ValueError: latents and masks do not correspond, or another kind.

    Source:
        Bardes et al. (2022), VICReg (arXiv 2105.04906), eq. 1-6. Departures: the
        invariance is taken after standardising (as in Barlow Twins), so agreement
        has no use for a smaller scale or one dominant direction; the covariance
        term takes correlations, averaged over pairs, so that its weight means the
        same for every width of Z.
    """
    if len(latents) != len(masks) or not latents:
        raise ValueError(
            f"{len(latents)} latents and {len(masks)} masks; give one of each per "
            "teacher, at least one"
        )
    if kind not in ("mse", "cosine"):
        raise ValueError(f"agreement is {kind!r}; choose from mse, cosine")
    zs, ws = [z.float() for z in latents], [m.float() for m in masks]
    total = torch.zeros((), device=zs[0].device)
    for z, w in zip(zs, ws, strict=True):
        total = total + _floors(z, w) / len(zs)
    pairs = list(combinations(range(len(zs)), 2))
    for m, n in pairs:
        both = ws[m] * ws[n]
        total = total + _invariance(zs[m], zs[n], both, kind) / len(pairs)
    return total


def _invariance(a: Tensor, b: Tensor, w: Tensor, kind: str) -> Tensor:
    enough = w.sum() >= 2
    count = w.sum().clamp(min=1)
    a, b = _standardised(a, w), _standardised(b, w)
    if kind == "mse":
        apart = (a - b).square().mean((0, 3))
    else:
        apart = (1 - torch.cosine_similarity(a, b, dim=-1, eps=1e-6)).mean(0)
    return enough * (apart * w).sum() / count


def _floors(z: Tensor, w: Tensor) -> Tensor:
    enough = w.sum() >= 2
    count = w.sum().clamp(min=2)
    centred = (z - _mean(z, w)) * w[None, :, :, None]
    flat = centred.flatten(1, 2)  # (L, N, Z)
    cov = flat.transpose(1, 2) @ flat / (count - 1)  # (L, Z, Z)
    variance = cov.diagonal(dim1=1, dim2=2)
    hinge = torch.relu(1 - (variance + _EPS).sqrt()).mean()
    directions = z.shape[-1]
    if directions == 1:
        return enough * VARIANCE_WEIGHT * hinge
    scale = (variance + _EPS).sqrt()
    squared = (cov / scale[:, :, None] / scale[:, None]).square()
    off = squared.sum((1, 2)) - squared.diagonal(dim1=1, dim2=2).sum(1)
    alike = off.mean() / (directions * (directions - 1))
    return enough * (VARIANCE_WEIGHT * hinge + CORRELATION_WEIGHT * alike)


def _standardised(z: Tensor, w: Tensor) -> Tensor:
    centred = z - _mean(z, w)
    return centred / (_mean(centred.square(), w) + _EPS).sqrt()


def _mean(z: Tensor, w: Tensor) -> Tensor:
    """Mean over the weighted tokens, (L, 1, 1, Z)."""
    weights = w[None, :, :, None]
    return (z * weights).sum((1, 2), keepdim=True) / w.sum().clamp(min=1)
