"""Routers: from a query to one weight per teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from align.errors import InputError
from fuse.beforehand.texts import Texts
from fuse.config import check_weights

ROUTER_TYPES = ("mlp", "gate", "attention")
"""What ``LearnableRouter`` can be; the registry knows the plugins' too."""


def learns(router: Any) -> bool:
    """Whether a router, or what makes it, says that it learns; most say nothing."""
    return bool(getattr(router, "learns", True))


def needs_sample(router: Any) -> bool:
    """Whether a router, or what makes it, is to be fitted on the calibration sample."""
    return bool(getattr(router, "needs_sample", False))


class FixedRouter(nn.Module):
    """The same shares for every query."""

    learns = False
    before_reading = True
    shares: Tensor
    """(M,) float32, summing to 1."""

    def __init__(
        self,
        hidden_dim: int,
        num_teachers: int,
        *,
        weights: list[float] | None = None,
    ) -> None:
        """Take shares.

        Args:
            hidden_dim: C, which plays no part.
            num_teachers: M.
            weights: M shares of any scale; None: equal ones.

        Raises:
            InputError: not M finite numbers >= 0 with a positive sum.
        """
        super().__init__()
        weights = [1.0] * num_teachers if weights is None else list(weights)
        check_weights("weights", weights)
        if len(weights) != num_teachers:
            raise InputError(
                f"weights has {len(weights)} entries for {num_teachers} teachers; give "
                "one a teacher"
            )
        shares = torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("shares", shares / shares.sum())

    def forward(self, query: Tensor) -> Tensor:
        """(..., C) float -> (..., M) float32."""
        return self.shares.expand(*query.shape[:-1], -1)

    def beforehand(self, texts: Texts) -> Tensor:
        """(B, M) float32."""
        return self.shares.expand(len(texts.domains), -1)


class LearnableRouter(nn.Module):
    """A small trained map from a query to teacher weights.

    - ``mlp``: LayerNorm, one hidden layer of ``hidden_dim``, softmax.
    - ``gate``: one independent sigmoid gate per teacher, divided by their sum.
    - ``attention``: the query attends to one learned key per teacher.

    All three start exactly uniform: no teacher is preferred before evidence.

    Source:
        mlp: Jacobs et al. (1991), Adaptive mixtures of local experts. gate: the
        normalised sigmoid affinities of DeepSeek-V3 (2024), eq. 12-15, without
        the top-k. attention: Vaswani et al. (2017), eq. 1, with one query.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_teachers: int,
        router_type: str = "mlp",
        temperature: float = 1.0,
    ) -> None:
        """Build the map.

        Args:
            hidden_dim: C, width of the query, >= 1.
            num_teachers: M, >= 1.
            router_type: mlp, gate or attention.
            temperature: divides the scores, > 0; lower is sharper.

        Raises:
            ValueError: another type, or a number out of range.
        """
        super().__init__()
        if router_type not in ROUTER_TYPES:
            raise ValueError(
                f"router_type is {router_type!r}; choose from {', '.join(ROUTER_TYPES)}"
            )
        if hidden_dim < 1 or num_teachers < 1:
            raise ValueError(
                "hidden_dim and num_teachers must be >= 1, "
                f"got {hidden_dim} and {num_teachers}"
            )
        if not temperature > 0:
            raise ValueError(f"router temperature must be > 0, got {temperature}")
        self.hidden_dim, self.num_teachers = hidden_dim, num_teachers
        self.router_type, self.temperature = router_type, temperature
        self.norm = nn.LayerNorm(hidden_dim)
        self.hidden: nn.Linear | None = None
        if router_type != "gate":
            self.hidden = nn.Linear(hidden_dim, hidden_dim)
        # One row per teacher; in "attention" these rows are the teachers' keys.
        self.score = nn.Linear(
            hidden_dim, num_teachers, bias=router_type != "attention"
        )
        nn.init.zeros_(self.score.weight)
        if self.score.bias is not None:
            nn.init.zeros_(self.score.bias)

    def forward(self, query: Tensor, available: Tensor | None = None) -> Tensor:
        """Weigh the teachers.

        Args:
            query: (..., C) float of any dtype.
            available: (..., M) bool, broadcast; the others get weight 0. None:
                every teacher is available.

        Returns:
            (..., M) float32, >= 0, summing to 1 over M; all zero where no
            teacher is available.

        Raises:
            ValueError: the query has another width.
        """
        if query.shape[-1] != self.hidden_dim:
            raise ValueError(
                f"query has width {query.shape[-1]}, the router was built with "
                f"hidden_dim={self.hidden_dim}; give the student's hidden states"
            )
        scores = self._scores(query) / self.temperature
        if available is None:
            return scores.softmax(-1)
        # The least finite float, not -inf: a row without teachers stays free of NaN.
        lowest = torch.finfo(scores.dtype).min
        return scores.masked_fill(~available, lowest).softmax(-1) * available

    def _scores(self, query: Tensor) -> Tensor:
        x = self.norm(query.to(self.norm.weight.dtype))
        if self.router_type == "gate":
            # log sigmoid, so that the softmax divides the gates by their sum
            return logsigmoid(self.score(x).float())
        assert self.hidden is not None
        if self.router_type == "mlp":
            x = nn.functional.gelu(self.hidden(x))
            return self.score(x).float()
        return self.score(self.hidden(x)).float() * self.hidden_dim**-0.5


def routing_query(hidden: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """Turn the student's hidden states into queries.

    Args:
        hidden: (B, T, C) float.
        mask: (B, T) bool, True on real tokens.
        level: ``token`` leaves them as they are; ``sample`` averages each text's
            real tokens, which looks into the future of all but the last.

    Returns:
        (B, T, C) or (B, C), in the dtype of ``hidden``.

    Raises:
        ValueError: another level.
    """
    if level == "token":
        return hidden
    if level != "sample":
        raise ValueError(f"routing level is {level!r}; choose from sample, token")
    kept = torch.where(mask[..., None], hidden.float(), 0.0)
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    return (kept.sum(1) / count).to(hidden.dtype)
