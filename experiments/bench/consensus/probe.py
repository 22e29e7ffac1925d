"""How many bits of the next token a linear map reads off some features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PENALTIES = (1e-2, 1e-3)
"""Of squared weights, of which the best on texts apart is taken."""
_ITERATIONS = 15
"""A penalty."""
_COUNTS = (0.5, 1, 2, 4, 8, 16, 32)
"""What the frequencies weigh beside a token's own followers."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """Three sets of tokens, of texts apart: to fit, to choose, and held out."""

    features: Sequence[Tensor]
    """Each (N, C) float."""
    classes: Sequence[Tensor]
    """Each (N,) int64 in [0, K)."""
    count: int
    """K."""


def classes_of(following: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
    """The commonest of the first set are a class each, all others one together.

    Args:
        following: sets of tokens, each (N,) int64.
        count: K >= 2, the class of all others among them, the last one.

    Returns:
        Each set's classes, (N,) int64.
    """
    tokens, times = following[0].unique(return_counts=True)
    commonest = tokens[times.argsort(descending=True, stable=True)][: count - 1]
    size = 1 + max(int(each.max()) for each in following)
    table = torch.full((size,), count - 1)
    table[commonest] = torch.arange(len(commonest))
    return tuple(table[each] for each in following)


def probe_bits(split: Split, penalties: Sequence[float] = PENALTIES) -> float:
    """Bits a token of the held-out set under multinomial logistic regression.

    Features are standardised by the set to fit on, and the penalty is the one with the
    fewest bits on the set to choose on. The loss is convex, but descent ends after
    15 steps a penalty, each from where the last one ended: begun elsewhere, bits were a
    hundredth apart.

    Args:
        split: of features and what is to be told from them.
        penalties: of half the sum of squared weights, all > 0, largest first.

    Returns:
        Cross-entropy of K classes, in bits.
    """
    fit, choose, held = _standardised(split.features)
    weight = torch.zeros(fit.shape[1], split.count, requires_grad=True)
    best = (math.inf, math.inf)
    for penalty in penalties:
        _descend(weight, fit, split.classes[0], penalty)
        with torch.no_grad():
            bits = [
                float(F.cross_entropy(x @ weight, y)) / math.log(2)
                for x, y in ((choose, split.classes[1]), (held, split.classes[2]))
            ]
        best = min(best, (bits[0], bits[1]))
    return best[1]


def _standardised(sets: Sequence[Tensor]) -> list[Tensor]:
    """(N, C + 1) float32, with a 1 at the end."""
    mean, std = sets[0].mean(0), sets[0].std(0)
    std = torch.where(std > 0, std, 1.0)
    return [F.pad(((x - mean) / std).float(), (0, 1), value=1.0) for x in sets]


def _descend(weight: Tensor, x: Tensor, y: Tensor, penalty: float) -> None:
    """Fit (C + 1, K) weights in place; the last row, of the 1s, is free."""
    solver = torch.optim.LBFGS(
        [weight], max_iter=_ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = (
            F.cross_entropy(x @ weight, y) + penalty / 2 * weight[:-1].square().sum()
        )
        value.backward()
        return value

    solver.step(loss)


def frequency_bits(classes: Sequence[Tensor], count: int) -> float:
    """Bits a token of the held-out set by how often classes come in the first."""
    return _bits(_frequencies(classes[0], count).log()[None], classes[2])


def token_bits(
    tokens: Sequence[Tensor], classes: Sequence[Tensor], count: int
) -> float:
    """Bits a token of the held-out set by what followed the same token before.

    Args:
        tokens: three sets, each (N,) int64.
        classes: what follows, each (N,) int64 in [0, K).
        count: K.

    Source:
        Counts of pairs with the frequencies as a Dirichlet prior (MacKay and Peto
        1995), whose weight is chosen on the second set.
    """
    size = 1 + max(int(each.max()) for each in tokens)
    prior = _frequencies(classes[0], count)
    pairs = torch.zeros(size, count, dtype=torch.float64)
    pairs.index_put_(
        (tokens[0], classes[0]), torch.ones(len(tokens[0])).double(), accumulate=True
    )
    best = (math.inf, math.inf)
    for weight in _COUNTS:
        likely = (pairs + weight * prior) / (pairs.sum(1, keepdim=True) + weight)
        bits = [_bits(likely.log()[tokens[m]], classes[m]) for m in (1, 2)]
        best = min(best, (bits[0], bits[1]))
    return best[1]


def _frequencies(classes: Tensor, count: int) -> Tensor:
    times = classes.bincount(minlength=count).double() + 0.5
    return times / times.sum()


def _bits(log_likely: Tensor, classes: Tensor) -> float:
    rows = log_likely.expand(len(classes), -1)
    return float(-rows.gather(1, classes[:, None]).mean()) / math.log(2)


def told_by_token(
    features: Tensor, tokens: Tensor, held: Tensor, held_tokens: Tensor
) -> float:
    """Share of held-out variance that the token itself tells.

    Args:
        features: (N, C) float, of which each token's mean is taken.
        tokens: (N,) int64.
        held: (N', C) float, of other texts.
        held_tokens: (N',) int64; those that were never met get the mean of all.

    Returns:
        1 less what is left of the variance, the mean over channels that vary.
    """
    size = 1 + int(torch.maximum(tokens.max(), held_tokens.max()))
    mean = features.double().mean(0)
    sums = torch.zeros(size, features.shape[1], dtype=torch.float64)
    sums.index_add_(0, tokens, features.double() - mean)
    times = tokens.bincount(minlength=size)[:, None]
    guess = mean + (sums / times.clamp(min=1))[held_tokens]
    total = (held.double() - mean).square().sum(0)
    left = (held.double() - guess).square().sum(0)
    varies = total > 0
    return float((1 - left[varies] / total[varies]).mean()) if varies.any() else 0.0
