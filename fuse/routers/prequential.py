"""Weights by what each teacher foresaw of the text that was read; nothing is trained.

A stretch of text is one that begins and ends with a whole token of everybody who is
compared, so that what is foretold of it is the same event for all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from align.products.autocast import without_autocast
from align.support.field_types import NotNegative, Share, checked
from fuse.signals import FORETOLD, Signals

ETA = 0.5
"""How much a nat of likelihood counts where nothing else is said."""
LEAST = -1e4
"""Nats below which a log-likelihood counts as this: 0 times infinity is no number."""
DECAY = 0.8
"""What a stretch leaves to the next of what counted, where nothing else is said."""


def read_scores(heard: Tensor, decay: float) -> Tensor:
    """Add up, before every stretch of a text, how likely those read were.

    Args:
        heard: (..., K, M) float, the log-likelihood in nats that each of M teachers
            gave to each of K stretches, in the order of the text. NaN in any place
            stands for a teacher that predicts nothing: its score is the mean of the
            others', and 0 where there is no other.
        decay: lambda in [0, 1]; 1 forgets nothing, 0 everything.

    Returns:
        (..., K + 1, M), at least float32: the score before stretch k, for k = 0 to K,
        sum over j < k of ``lambda ** (k - j) * heard[j]``; 0 before the first.
    """
    wide = heard if heard.dtype == torch.float64 else heard.float()
    wide = wide.clamp_min(LEAST)
    count = heard.shape[-2]
    step = torch.arange(count + 1, device=heard.device)
    age = step[:, None] - step[:-1]  # (K + 1, K)
    kept = torch.tensor(decay, dtype=wide.dtype, device=heard.device)
    weight = torch.where(age > 0, kept ** age.clamp_min(1), 0)
    silent = wide.isnan().any(-2, keepdim=True)  # (..., 1, M)
    with without_autocast(heard):  # sums in bfloat16 lose nats
        scores = weight @ torch.where(silent, 0, wide)
    heard_of = (~silent).sum(-1, keepdim=True).clamp_min(1)
    return torch.where(silent, scores.sum(-1, keepdim=True) / heard_of, scores)


def prequential_weights(scores: Tensor, eta: float) -> Tensor:
    """Turn scores into weights.

    Args:
        scores: (..., M) float, see :func:`read_scores`.
        eta: >= 0; 0 weighs all alike, and at 1 without decay the weights are the
            posterior of the teacher that the text is from.

    Returns:
        (..., M), summing to 1.

    Source:
        Exponentially weighted forecasters: Cesa-Bianchi and Lugosi 2006, Prediction,
        Learning, and Games, section 2.2, with losses discounted as in section 2.11.
        Departure: the discount counts stretches of text, which differ in length.
    """
    return (eta * scores).softmax(-1)


class PrequentialRouter(nn.Module):
    """Whoever foretold best what this text has said so far has most weight."""

    learns = False
    needs = frozenset({FORETOLD})

    def __init__(
        self,
        hidden_dim: int,
        num_teachers: int,
        *,
        eta: NotNegative = ETA,
        decay: Share = DECAY,
    ) -> None:
        """Choose how fast it makes up its mind, and how fast it forgets.

        Args:
            hidden_dim: C, which plays no part.
            num_teachers: M.
            eta: >= 0, what a nat of likelihood counts; 0 weighs all alike.
            decay: in [0, 1], what a stretch of text leaves to the next of what counted.

        Raises:
            InputError: a number out of range.
        """
        super().__init__()
        checked(NotNegative, eta, "eta")
        checked(Share, decay, "decay")
        self.eta, self.decay = eta, decay

    def forward(self, query: Tensor, signals: Signals) -> Tensor:
        """(B, T, C) float -> (B, T, M) float32, by the stretches that ended before."""
        foretold, ends = signals.foretold, signals.ends
        assert foretold is not None and ends is not None
        before = ends.cumsum(1) - ends.long()  # (B, T) stretches that ended
        rows, cols = ends.nonzero(as_tuple=True)
        count = int(ends.sum(1).max()) if ends.numel() else 0
        heard = foretold.new_zeros(len(ends), count, foretold.shape[2])
        heard[rows, before[rows, cols]] = foretold[rows, cols]
        scores = read_scores(heard, self.decay)  # (B, K + 1, M)
        at_token = before[..., None].expand(-1, -1, scores.shape[2])
        return prequential_weights(scores.gather(1, at_token), self.eta)
