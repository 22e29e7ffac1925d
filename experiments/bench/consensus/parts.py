"""What each of several teachers says apart from the others, in covariances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.calibration import CalibrationStats
from align.consensus import RANK, Consensus, own_blocks, signed


def principal(stats: CalibrationStats, widths: Sequence[int]) -> list[Tensor]:
    """Each teacher's principal components, of its standardised channels.

    Args:
        stats: as for :func:`align.consensus.fit_consensus`.
        widths: C_m of each teacher.

    Returns:
        Per teacher (L, C_m, C_m) float64, largest variance first: ``x @`` this is
        uncorrelated, of unit variance, and 0 beyond the rank.
    """
    return [
        _components(block, scale, torch.eye(block.shape[1]).to(block))
        for block, scale in zip(
            own_blocks(stats.cov_x, widths),
            stats.std_x.split(list(widths), 1),
            strict=True,
        )
    ]


def private(consensus: Consensus, stats: CalibrationStats, count: int) -> list[Tensor]:
    """What each teacher says beside its guesses of the first ``count`` directions.

    Args:
        consensus: fitted on the same statistics.
        stats: as for :func:`align.consensus.fit_consensus`.
        count: directions that are shared, >= 0.

    Returns:
        As :func:`principal`, of what is left of a teacher's channels when its own
        guesses have told all they can of them; it reads no other teacher.
    """
    widths = [part.shape[1] for part in consensus.parts]
    left = []
    for part, block, scale in zip(
        consensus.parts,
        own_blocks(stats.cov_x, widths),
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
    values, vectors = values.flip(1), signed(vectors.flip(2))
    real = values > RANK * values[:, :1].clamp(min=1)
    inverse = torch.where(real, values.clamp(min=1e-300).rsqrt(), 0.0)
    return before @ (vectors * inverse[:, None] / scale[:, :, None])
