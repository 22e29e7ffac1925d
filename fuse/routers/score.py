"""A router by several things at once that speak for a teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from align.errors import InputError
from align.support.field_types import NotNegative, Positive, checked
from fuse.routers.scores import before, score_weights
from fuse.signals import ENTROPY, MAX_PROB, RIGHT, Signals

_PARTS = {"alpha": MAX_PROB, "beta": RIGHT, "gamma": ENTROPY}


class ScoreRouter(nn.Module):
    """Softmax of ``alpha * max_prob + beta * right - gamma * entropy``.

    Source:
        Seed table 3-77, with the choice of 3-80. Departure: scores may be negative, so
        their shares of a sum are no probabilities; a softmax of them is.
    """

    learns = False
    needs = frozenset({ENTROPY, MAX_PROB, RIGHT})
    causal = False
    """``right`` looks ahead; a token is weighed by what was said of it."""

    def __init__(
        self,
        hidden_dim: int,
        num_teachers: int,
        *,
        alpha: NotNegative = 1.0,
        beta: NotNegative = 1.0,
        gamma: NotNegative = 1.0,
        temperature: Positive = 1.0,
    ) -> None:
        """Weigh the parts.

        Args:
            hidden_dim: C, which plays no part.
            num_teachers: M.
            alpha: >= 0, what the teacher's greatest probability counts.
            beta: >= 0, what it counts that its likeliest token is the one that came.
            gamma: >= 0, what a nat of its entropy counts against it.
            temperature: > 0; lower is sharper.
        """
        super().__init__()
        weights = {"alpha": alpha, "beta": beta, "gamma": gamma}
        for name, weight in weights.items():
            checked(NotNegative, weight, name)
        self.needs = self.needs_with(**weights)
        self.weights = weights
        self.temperature = checked(Positive, temperature, "temperature")

    @staticmethod
    def needs_with(**options: Any) -> frozenset[str]:
        """What it needs with these options: the parts that count.

        Raises:
            InputError: none does.
        """
        parts = {need for name, need in _PARTS.items() if options.get(name, 1.0)}
        if not parts:
            raise InputError(
                "router 'score' has alpha, beta and gamma 0, so that all teachers "
                "score alike; give one of them a number > 0"
            )
        return frozenset(parts)

    def forward(self, query: Tensor, signals: Signals) -> Tensor:
        """(B, T, C) float -> (B, T, M) float32, by the place before each token."""
        said = [
            (-weight if name == "gamma" else weight) * getattr(signals, _PARTS[name])
            for name, weight in self.weights.items()
            if weight
        ]
        scores = before(torch.stack(said).sum(0))
        return score_weights(scores, self.temperature)
