"""One weight per teacher for every student token, whichever way it is found.

A weigher is what training holds: a router of any kind (constant, by prototypes,
trained, a stranger's), asked for a sample or for a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fuse.router import FixedRouter, routing_query
from fuse.signals import Signals, signals_needed


class Weigher(nn.Module):
    """A router, at the level and temperature of a run, over whoever covers a token."""

    def __init__(
        self,
        router: nn.Module | Sequence[nn.Module],
        level: str = "token",
        temperature: float = 1.0,
    ) -> None:
        """Wrap a router, or one for each of the student's layers.

        Args:
            router: maps queries (..., C) to weights (..., M); one that needs signals,
                queries (B, T, C) and a :class:`fuse.signals.Signals`.
            level: ``token`` or ``sample``; what needs signals is asked for tokens.
            temperature: > 0; lower is sharper. For a softmax router it divides the
                scores; any other's weights are raised to its inverse.
        """
        super().__init__()
        self.by_layer = not isinstance(router, nn.Module)
        routers = [router] if isinstance(router, nn.Module) else router
        self.routers = nn.ModuleList(routers)
        self.level, self.temperature = level, temperature
        self.needs = frozenset().union(*map(signals_needed, routers))
        """What it is to be told beside hidden states, see :mod:`fuse.signals`."""
        self.causal = all(getattr(router, "causal", True) for router in routers)
        """Whether no signal of those knows text behind a token."""

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
        query = routing_query(hidden, mask, "token" if self.needs else self.level)
        given = (signals,) if self.needs else ()
        weights = [
            share(per_token(self._sharpen(router(query, *given)), mask), available)
            for router in self.routers
        ]
        return torch.stack(weights) if self.by_layer else weights[0]

    @property
    def shares(self) -> Tensor | None:
        """(M,) float32 where weights are the same for every text; None elsewhere."""
        constant: Tensor | None = getattr(self.routers[0], "shares", None)
        return None if self.by_layer else constant

    def _sharpen(self, weights: Tensor) -> Tensor:
        if self.temperature != 1:
            tiny = torch.finfo(torch.float32).tiny  # a weight of 0 stays finite
            log_weights = weights.float().clamp_min(tiny).log()
            weights = (log_weights / self.temperature).softmax(-1)
        return weights


class FixedWeigher(Weigher):
    """Constant shares."""

    def __init__(self, weights: Sequence[float]) -> None:
        """Take M shares of any scale, >= 0 with a positive sum."""
        super().__init__(FixedRouter(1, len(weights), weights=list(weights)))


def prior(weigher: nn.Module, available: Tensor) -> Tensor:
    """What a weigher would give before it has seen a text.

    Args:
        weigher: any; of fixed shares those, of all others equal ones.
        available: (B, T, M) bool, True where a teacher covers the token.

    Returns:
        (B, T, M) float32, see :func:`share`.
    """
    shares = getattr(weigher, "shares", None)
    if shares is None:
        shares = torch.ones(available.shape[-1], device=available.device)
    return share(shares.expand_as(available), available)


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
