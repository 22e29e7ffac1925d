"""One weight per teacher for every student token, whichever way it is found.

A weigher is what training holds: a router of any kind (constant, by prototypes,
trained, a stranger's), asked for a sample or for a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fuse.config import HARD, SOFT, TOP_K, FuseConfig
from fuse.routers.choice import choose
from fuse.routers.router import FixedRouter, routing_query
from fuse.signals import Signals, signals_needed


class Weighed(NamedTuple):
    """What a weigher says of one pass; both (B, T, M) or (L, B, T, M) float32."""

    soft: Tensor
    """The router's weights, with its gradient."""
    weights: Tensor
    """Those by which teachers count, once some of them were chosen."""


class Weigher(nn.Module):
    """A router, at the level and temperature of a run, over whoever covers a token."""

    def __init__(
        self,
        router: nn.Module | Sequence[nn.Module],
        level: str = "token",
        temperature: float = 1.0,
        choice: str = SOFT,
        k: int = 1,
    ) -> None:
        """Wrap a router, or one for each of the student's layers.

        Args:
            router: maps queries (..., C) to weights (..., M); one that needs signals,
                queries (B, T, C) and a :class:`fuse.signals.Signals`.
            level: ``token`` or ``sample``. What needs signals weighs tokens; a text's
                weights are then the mean over them.
            temperature: > 0; lower is sharper. For a softmax router it divides the
                scores; any other's weights are raised to its inverse.
            choice: who counts of those that are weighed, see
                :func:`fuse.routers.choice.choose`.
            k: of ``top_k``.
        """
        super().__init__()
        self.by_layer = not isinstance(router, nn.Module)
        routers = [router] if isinstance(router, nn.Module) else router
        self.routers = nn.ModuleList(routers)
        self.level, self.temperature = level, temperature
        self.choice, self.k = choice, k
        self.needs = frozenset().union(*map(signals_needed, routers))
        """What it is to be told beside hidden states, see :mod:`fuse.signals`."""
        self.causal = all(getattr(router, "causal", True) for router in routers)
        """Whether no signal of those knows text behind a token."""

    @classmethod
    def of(
        cls,
        fuse: FuseConfig,
        router: nn.Module | Sequence[nn.Module],
        temperature: float = 1.0,
    ) -> Weigher:
        """At the level and with the choice of a config."""
        level = fuse.routing_level
        return cls(router, level, temperature, choice=fuse.chosen, k=fuse.choice_k)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor,
        available: Tensor,
        signals: Signals | None = None,
    ) -> Tensor:
        """Weigh the teachers.

        (B, T, C), (B, T), (B, T, M) -> (B, T, M) float32, or (L, B, T, M) with a router
        for each layer; see :func:`share`. ``signals`` are for routers that need some.
        """
        return self.weigh(hidden, mask, available, signals).weights

    def weigh(
        self,
        hidden: Tensor,
        mask: Tensor,
        available: Tensor,
        signals: Signals | None = None,
        draws: Tensor | None = None,
    ) -> Weighed:
        """The same, with the weights before anybody was chosen.

        Args:
            hidden: (B, T, C) float, the student's.
            mask: (B, T) bool, real tokens.
            available: (B, T, M) bool, who covers which token.
            signals: of the same texts.
            draws: (B, T) float64 in [0, 1), of a choice that is drawn: one a token, of
                whole texts the first; see :func:`fuse.beforehand.choose.text_draws`.
        """
        query = routing_query(hidden, mask, "token" if self.needs else self.level)
        given = (signals,) if self.needs else ()
        every = [
            self._chosen(router(query, *given), mask, available, draws)
            for router in self.routers
        ]
        if not self.by_layer:
            return every[0]
        return Weighed(*(torch.stack(each) for each in zip(*every, strict=True)))

    def _chosen(
        self, weights: Tensor, mask: Tensor, available: Tensor, draws: Tensor | None
    ) -> Weighed:
        """Of one router; a text's choice is among those that cover any of it."""
        of_text = self.level == "sample"
        if of_text and weights.dim() == 3:
            held = mask[..., None]
            weights = (weights * held).sum(1) / held.sum(1).clamp_min(1)
        weights = self._sharpen(weights)
        soft = share(per_token(weights, mask), available)
        if self.choice == SOFT:
            return Weighed(soft, soft)
        if of_text:
            covering = share(weights, available.any(1))
            first = None if draws is None else draws[:, 0]
            alone = choose(covering, self.choice, k=self.k, draws=first)
            return Weighed(soft, share(per_token(alone, mask), available))
        return Weighed(soft, choose(soft, self.choice, k=self.k, draws=draws))

    @property
    def shares(self) -> Tensor | None:
        """(M,) float32 where weights are the same for every text; None elsewhere."""
        constant: Tensor | None = getattr(self.routers[0], "shares", None)
        return None if self.by_layer else constant

    def _sharpen(self, weights: Tensor) -> Tensor:
        if self.temperature != 1:
            tiny = torch.finfo(torch.float32).tiny  # a weight of 0 stays finite
            log_weights = weights.float().clamp_min(tiny).log()
            sharp = (log_weights / self.temperature).softmax(-1)
            weights = sharp * (weights > 0)  # to any power, nothing is nothing
        return weights


class FixedWeigher(Weigher):
    """Constant shares."""

    def __init__(self, weights: Sequence[float]) -> None:
        """Take M shares of any scale, >= 0 with a positive sum."""
        super().__init__(FixedRouter(1, len(weights), weights=list(weights)))


def prior(weigher: nn.Module, available: Tensor) -> Tensor:
    """What a weigher would give before it has seen a text.

    Args:
        weigher: any; of fixed shares those, with their greatest chosen where that is
            asked for, of all others equal ones.
        available: (B, T, M) bool, True where a teacher covers the token.

    Returns:
        (B, T, M) float32, see :func:`share`.
    """
    shares = getattr(weigher, "shares", None)
    if shares is None:
        shares = torch.ones(available.shape[-1], device=available.device)
        return share(shares.expand_as(available), available)
    weights = share(shares.expand_as(available), available)
    if isinstance(weigher, Weigher) and weigher.choice in (HARD, TOP_K):
        return choose(weights, weigher.choice, k=weigher.k)
    return weights


def per_token(weights: Tensor, mask: Tensor) -> Tensor:
    """Give every token of a sample its weights: (B, M) or (B, T, M) -> (B, T, M)."""
    if weights.dim() == 3:
        return weights
    return weights[:, None].expand(-1, mask.shape[1], -1)


def share(weights: Tensor, available: Tensor) -> Tensor:
    """Renormalise weights over the teachers that have something to say.

    Args:
        weights: (..., B, T, M) >= 0.
        available: (B, T, M) bool, True where a teacher covers the token.

    Returns:
        (..., B, T, M) float32 summing to 1 over M, or to 0 where no teacher (or none
        with weight) is available.
    """
    kept = weights.float() * available
    total = kept.sum(-1, keepdim=True)
    return kept / torch.where(total > 0, total, torch.ones_like(total))
