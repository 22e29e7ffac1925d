"""A router that is told who teaches which kind of text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fuse.beforehand.texts import Texts
from fuse.signals import DOMAIN, Signals


class LabelRouter(nn.Module):
    """A domain's own teacher has all the weight; other texts weigh all alike."""

    learns = False
    needs = frozenset({DOMAIN})
    before_reading = True

    def __init__(
        self,
        hidden_dim: int,
        num_teachers: int,
        *,
        domains: dict[str, str] | None = None,
    ) -> None:
        """Take the labels.

        Args:
            hidden_dim: C, which plays no part.
            num_teachers: M.
            domains: by domain, the teacher of its texts; a domain without one, or whose
                teacher does not take part, weighs all alike.
        """
        super().__init__()
        self.domains, self.num_teachers = dict(domains or {}), num_teachers

    def forward(self, query: Tensor, signals: Signals) -> Tensor:
        """(B, T, C) float -> (B, T, M) float32."""
        batch, tokens = query.shape[:2]
        domains = signals.domains or [""] * batch
        weights = self._weights(signals.teachers, domains, query.device)
        return weights[:, None].expand(-1, tokens, -1)

    def beforehand(self, texts: Texts) -> Tensor:
        """(B, M) float32."""
        return self._weights(texts.teachers, texts.domains)

    def _weights(
        self,
        teachers: Sequence[str],
        domains: Sequence[str],
        device: torch.device | None = None,
    ) -> Tensor:
        named, count = list(teachers), self.num_teachers
        shape = len(domains), count
        weights = torch.full(shape, 1 / count, device=device)
        for row, domain in enumerate(domains):
            teacher = self.domains.get(domain)
            if teacher in named:
                weights[row] = 0
                weights[row, named.index(teacher)] = 1
        return weights
