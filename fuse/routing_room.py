"""What weighing teachers could bring, computed before anything is trained.

All numbers are bits per character of the same stretches of text. A mixture foretells a
stretch with the weighted sum of the teachers' probabilities of it, so no weighting does
better than the teacher that foretold that stretch best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fuse.routers.prequential import DECAY, ETA, prequential_weights, read_scores


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingRoom:
    """Bits per character of M teachers, alone and together, on common stretches."""

    characters: int
    """In the stretches."""
    teachers: tuple[float, ...]
    """(M,) each alone."""
    equal: float
    """Of the mixture of all with equal weights, which routes nothing."""
    prequential: float
    """Of the mixture with weights by what was read before, and nothing later."""
    per_text: float
    """Of the teacher that read each text best as a whole."""
    per_stretch: float
    """Of the teacher that foretold each stretch best, which nobody knows before."""

    @property
    def reachable(self) -> float:
        """The better of prequential weights and the right teacher for every text."""
        return min(self.prequential, self.per_text)

    @property
    def gain(self) -> float:
        """Share of the equal mixture's bits that routing within reach can save."""
        return saved(self.reachable, self.equal)

    @property
    def ceiling(self) -> float:
        """Share of them that no weighting whatever can save more than."""
        return saved(self.per_stretch, self.equal)


def saved(bits: float, of: float) -> float:
    """Share of some bits that others save; 0 where they save none."""
    return max(0.0, 1 - bits / of) if of > 0 else 0.0


def routing_room(
    heard: Sequence[Tensor],
    characters: int,
    *,
    eta: float = ETA,
    decay: float = DECAY,
) -> RoutingRoom:
    """Weigh several teachers in every way that is compared.

    Args:
        heard: of each text (K, M) float, the log-likelihood in nats of its stretches
            in order; K may be 0.
        characters: in all stretches together, >= 1.
        eta: see :func:`fuse.routers.prequential.prequential_weights`.
        decay: see :func:`fuse.routers.prequential.read_scores`.

    Raises:
        ValueError: no character.
    """
    if characters < 1:
        raise ValueError(f"there are {characters} characters to divide by; give 1")
    texts = [stretches.double() for stretches in heard]
    alone = torch.stack([stretches.sum(0) for stretches in texts])  # (texts, M)

    def bits(nats: Tensor) -> float:
        return float(-nats.sum()) / math.log(2) / characters

    prequential = torch.cat(
        [
            mixture(
                stretches,
                prequential_weights(read_scores(stretches, decay)[:-1], eta),
            )
            for stretches in texts
        ]
    )
    every = torch.cat(texts)
    equal = torch.full_like(every, 1 / every.shape[1])
    return RoutingRoom(
        characters=characters,
        teachers=tuple(bits(nats) for nats in alone.unbind(1)),
        equal=bits(mixture(every, equal)),
        prequential=bits(prequential),
        per_text=bits(alone.amax(1)),
        per_stretch=bits(every.amax(1)),
    )


def mixture(heard: Tensor, weights: Tensor) -> Tensor:
    """The log-likelihood of stretches under a weighted sum of their probabilities.

    Args:
        heard: (..., M) float, nats.
        weights: (..., M) >= 0, summing to 1.

    Returns:
        (...) nats.
    """
    return (heard + weights.log()).logsumexp(-1)
