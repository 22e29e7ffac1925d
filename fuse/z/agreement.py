"""Pull the latents of several teachers together without emptying them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from align.products.autocast import without_autocast

"""How two teachers' latents of one token are compared."""
VARIANCE_WEIGHT = 1.0
"""Of the floor under every direction's spread; invariance has weight 1."""
CORRELATION_WEIGHT = 1.0
"""Of the mean squared correlation between two directions of one teacher."""
_EPS = 1e-4


def agreement(
    latents: Sequence[Tensor],
    masks: Sequence[Tensor],
    kind: str = "mse",
    totals: Sequence[float] | None = None,
) -> Tensor:
    """Distance between teachers on shared tokens, with floors against collapse.

    Three parts, each taken within every text and averaged over texts by their tokens,
    so that the texts of a step may be read in as many passes as one likes. Invariance:
    for every two teachers, on tokens both cover, either the squared difference of
    latents standardised over those tokens (``mse``) or 1 - their cosine (``cosine``);
    neither shrinks when a latent shrinks. Variance: every direction of every teacher
    keeps a standard deviation of at least 1. Correlation: directions of one teacher
    stay uncorrelated, so that Z does not fall into one line.

    Args:
        latents: per teacher (L, B, T, Z) float.
        masks: per teacher (B, T) bool, tokens it covers.
        kind: ``mse`` or ``cosine``.
        totals: what :func:`agreement_counts` comes to over all that is averaged; None:
            these texts are all.

    Returns:
        Scalar, at least float32, averaged over layers, directions, texts, teachers and
        pairs. A text of which fewer than two tokens are covered counts nothing.

    Raises:
        ValueError: latents and masks do not correspond, or another kind.

    Source:
        Bardes et al. (2022), VICReg (arXiv 2105.04906), eq. 1-6. Departures: spreads
        are those within a text, not of the batch; the invariance is taken after
        standardising (as in Barlow Twins), so agreement has no use for a smaller scale
        or one dominant direction; the covariance term takes correlations, averaged over
        pairs, so that its weight means the same for every width of Z.
    """
    if len(latents) != len(masks) or not latents:
        raise ValueError(
            f"{len(latents)} latents and {len(masks)} masks; give one of each per "
            "teacher, at least one"
        )
    if kind not in ("mse", "cosine"):
        raise ValueError(f"agreement is {kind!r}; choose from mse, cosine")
    zs = [z.to(torch.promote_types(z.dtype, torch.float32)) for z in latents]
    by_text = [_floors(z, w.to(z)) for z, w in zip(zs, masks, strict=True)]
    by_text += [
        _invariance(zs[m], zs[n], both.to(zs[m]), kind)
        for (m, n), both in zip(_pairs(masks), _both(masks), strict=True)
    ]
    counted = [_tokens(w) for w in (*masks, *_both(masks))]
    totals = [float(n.sum()) for n in counted] if totals is None else totals
    means = [
        (value * n).sum() / max(total, 1.0)
        for value, n, total in zip(by_text, counted, totals, strict=True)
    ]
    floors, pulls = means[: len(zs)], means[len(zs) :]
    return torch.stack(floors).mean() + sum(pulls, floors[0] * 0) / max(len(pulls), 1)


def agreement_counts(masks: Sequence[Tensor]) -> tuple[float, ...]:
    """How many tokens count: of every teacher, then of every two.

    Args:
        masks: per teacher (B, T) bool, tokens it covers.
    """
    return tuple(float(_tokens(mask).sum()) for mask in (*masks, *_both(masks)))


def _pairs(masks: Sequence[Tensor]) -> list[tuple[int, int]]:
    return list(combinations(range(len(masks)), 2))


def _both(masks: Sequence[Tensor]) -> list[Tensor]:
    return [masks[m] & masks[n] for m, n in _pairs(masks)]


def _tokens(mask: Tensor) -> Tensor:
    """(B,) int64, what each text counts: no spread shows in a single token."""
    number = mask.sum(1)
    return number * (number >= 2)


def _invariance(a: Tensor, b: Tensor, w: Tensor, kind: str) -> Tensor:
    """(B,), a mean over the text's weighted tokens, (B, T)."""
    a, b = _standardised(a, w), _standardised(b, w)
    if kind == "mse":
        apart = (a - b).square().mean((0, 3))
    else:
        apart = (1 - torch.cosine_similarity(a, b, dim=-1, eps=1e-6)).mean(0)
    return (apart * w).sum(1) / w.sum(1).clamp(min=1)


def _floors(z: Tensor, w: Tensor) -> Tensor:
    """(B,), of the text's weighted tokens, (B, T)."""
    count = w.sum(1).clamp(min=2)[:, None, None]
    centred = (z - _mean(z, w)) * w[None, :, :, None]
    with without_autocast(z):
        cov = centred.transpose(2, 3) @ centred / (count - 1)  # (L, B, Z, Z)
    variance = cov.diagonal(dim1=2, dim2=3)
    scale = (variance + _EPS).sqrt()
    hinge = torch.relu(1 - scale).mean((0, 2))
    directions = z.shape[-1]
    if directions == 1:
        return VARIANCE_WEIGHT * hinge
    squared = (cov / scale[..., :, None] / scale[..., None, :]).square()
    off = squared.sum((2, 3)) - squared.diagonal(dim1=2, dim2=3).sum(2)
    alike = off.mean(0) / (directions * (directions - 1))
    return VARIANCE_WEIGHT * hinge + CORRELATION_WEIGHT * alike


def _standardised(z: Tensor, w: Tensor) -> Tensor:
    centred = z - _mean(z, w)
    return centred / (_mean(centred.square(), w) + _EPS).sqrt()


def _mean(z: Tensor, w: Tensor) -> Tensor:
    """Mean over the weighted tokens of each text, (L, B, 1, Z)."""
    weights = w[None, :, :, None]
    number = w.sum(1).clamp(min=1)[:, None, None]
    return (z * weights).sum(2, keepdim=True) / number
