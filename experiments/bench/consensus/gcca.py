"""What several teachers' features say together, and what each says alone.

All in covariances of the teachers' channels, so that memory does not grow with tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from align.calibration import CalibrationStats

RANK = 1e-10
"""Directions below this share of the largest eigenvalue are rounding, not features."""
STRENGTH = 1e-2
"""λ beside the unit variance of a channel, that of ``calibrate_ridge``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Consensus:
    """The directions that teachers agree on, those they agree on most first."""

    weight: Tensor
    """(L, C, D) float64: ``(x - mean) @ weight`` is z, for the channels of all teachers
    side by side; uncorrelated and of unit variance on the sample, 0 beyond its rank."""
    parts: tuple[Tensor, ...]
    """Of each teacher (L, C_m, D) float64: its channels alone to its guess of z, by
    ridge regression. Guesses of all teachers add up to z times M times ``shares``."""
    shares: Tensor
    """(L, D) float64 in [0, 1]: eigenvalues, divided by the number of teachers."""


def fit_consensus(
    stats: CalibrationStats, widths: Sequence[int], strength: float = STRENGTH
) -> Consensus:
    """Find the eigenvectors of the sum of the teachers' smoothers.

    Args:
        stats: whose x are the channels of all teachers side by side.
        widths: C_m of each of M >= 2 teachers, which add up to C.
        strength: λ >= 0, relative to the unit variance of standardised channels.

    Returns:
        All D = C directions. Nothing depends on the order of the teachers but the order
        of channels; at strength 0 nothing on an invertible map of one's channels.

    Raises:
        ValueError: the widths are not those of the statistics, or ``strength`` < 0.

    Source:
        Kettenring (1971), MAXVAR, regularised: the leading eigenvectors z of
        Σ_m X_m (X_mᵀ X_m + λ I)⁻¹ X_mᵀ, N x N. With A_m = X_m (X_mᵀ X_m + λ I)^(-1/2)
        that is A Aᵀ, whose eigenvalues AᵀA shares, C x C: u there is A u / √μ here.
        Departure: channels are standardised first, and λ counts beside covariances.
    """
    if sum(widths) != stats.dim_x or len(widths) < 2:
        raise ValueError(
            f"widths {list(widths)} are not those of two or more teachers with "
            f"{stats.dim_x} channels side by side"
        )
    if strength < 0:
        raise ValueError(f"strength must be >= 0, got {strength}")
    scale = stats.std_x
    corr = stats.cov_x / (scale[:, :, None] * scale[:, None])
    roots = [_inverse_root(block, strength) for block in _blocks(corr, widths)]
    whiten = torch.stack([torch.block_diag(*each) for each in zip(*roots, strict=True)])
    values, vectors = torch.linalg.eigh(whiten @ corr @ whiten)
    values, vectors = values.flip(1).clamp(min=0), _signed(vectors.flip(2))
    real = values > RANK * values[:, :1]
    roots_of = torch.where(real, values, 1.0).sqrt()[:, None]
    directions = whiten @ vectors * real[:, None]
    weight = directions / roots_of / scale[:, :, None]
    guesses = directions * roots_of / scale[:, :, None]
    return Consensus(
        weight=weight,
        parts=tuple(guesses.split(list(widths), 1)),
        shares=values * real / len(widths),
    )


def agreement(consensus: Consensus, stats: CalibrationStats) -> Tensor:
    """How far the teachers' guesses of each direction go together.

    Args:
        consensus: fitted on other texts, or on the same.
        stats: of the channels of all teachers side by side.

    Returns:
        (L, D) float64 in [-1, 1]: correlation, the mean over pairs of teachers; of two
        teachers, fitted on these texts at strength 0, the canonical one. 0 where a
        guess does not vary.
    """
    widths = [part.shape[1] for part in consensus.parts]
    rows = [block.split(widths, 2) for block in stats.cov_x.split(widths, 1)]

    def together(m: int, n: int) -> Tensor:
        return (consensus.parts[m] * (rows[m][n] @ consensus.parts[n])).sum(1)

    spread = [together(m, m).clamp(min=0).sqrt() for m in range(len(widths))]
    pairs = []
    for m, n in combinations(range(len(widths)), 2):
        size = spread[m] * spread[n]
        safe = torch.where(size > 0, size, 1.0)
        pairs.append(torch.where(size > 0, together(m, n) / safe, 0.0))
    return torch.stack(pairs).mean(0).clamp(-1, 1)


def principal(stats: CalibrationStats, widths: Sequence[int]) -> list[Tensor]:
    """Each teacher's principal components, of its standardised channels.

    Args:
        stats: as for :func:`fit_consensus`.
        widths: C_m of each teacher.

    Returns:
        Per teacher (L, C_m, C_m) float64, largest variance first: ``x @`` this is
        uncorrelated, of unit variance, and 0 beyond the rank.
    """
    return [
        _components(block, scale, torch.eye(block.shape[1]).to(block))
        for block, scale in zip(
            _blocks(stats.cov_x, widths),
            stats.std_x.split(list(widths), 1),
            strict=True,
        )
    ]


def private(consensus: Consensus, stats: CalibrationStats, count: int) -> list[Tensor]:
    """What each teacher says beside its guesses of the first ``count`` directions.

    Args:
        consensus: fitted on the same statistics.
        stats: as for :func:`fit_consensus`.
        count: directions that are shared, >= 0.

    Returns:
        As :func:`principal`, of what is left of a teacher's channels when its own
        guesses have told all they can of them; it reads no other teacher.
    """
    widths = [part.shape[1] for part in consensus.parts]
    left = []
    for part, block, scale in zip(
        consensus.parts,
        _blocks(stats.cov_x, widths),
        stats.std_x.split(widths, 1),
        strict=True,
    ):
        guess = part[:, :, :count] * scale[:, :, None]
        size = guess.norm(dim=1, keepdim=True)
        guess = guess / torch.where(size > 0, size, 1.0) / scale[:, :, None]
        crossed = block @ guess
        inside = torch.linalg.pinv(guess.mT @ crossed, rtol=RANK, hermitian=True)
        away = torch.eye(block.shape[1]).to(block) - guess @ inside @ crossed.mT
        left.append(_components(away.mT @ block @ away, scale, away))
    return left


def _components(cov: Tensor, scale: Tensor, before: Tensor) -> Tensor:
    """(L, C, C): the way ``before`` (C, C) and then to components of ``cov``, (L, C, C)
    of raw channels whose standard deviations are ``scale`` (L, C)."""
    corr = cov / (scale[:, :, None] * scale[:, None])
    values, vectors = torch.linalg.eigh(corr)
    values, vectors = values.flip(1), _signed(vectors.flip(2))
    real = values > RANK * values[:, :1].clamp(min=1)
    inverse = torch.where(real, values.clamp(min=1e-300).rsqrt(), 0.0)
    return before @ (vectors * inverse[:, None] / scale[:, :, None])


def _inverse_root(block: Tensor, strength: float) -> Tensor:
    """(block + λ I)^(-1/2) of (L, C, C), 0 on directions without variance."""
    values, vectors = torch.linalg.eigh(block)
    real = values > RANK * values[:, -1:].clamp(min=1)
    inverse = torch.where(real, (values + strength).clamp(min=1e-300).rsqrt(), 0.0)
    return vectors * inverse[:, None] @ vectors.mT


def _blocks(cov: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """Each teacher's own (L, C_m, C_m) of (L, C, C)."""
    rows = cov.split(list(widths), 1)
    return [row.split(list(widths), 2)[m] for m, row in enumerate(rows)]


def _signed(vectors: Tensor) -> Tensor:
    """Eigenvectors (L, C, D) with the largest entry above 0: they have no sign."""
    largest = vectors.abs().argmax(1, keepdim=True)
    return vectors * vectors.gather(1, largest).sign()
