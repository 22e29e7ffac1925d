"""How far domains are apart for the student, by what their texts ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from align.products.autocast import without_autocast
from align.schedules.losses import MEMORY
from student.balance.domains import weights_by
from student.balance.waiting import DomainSums, Sum

Apart = Literal["gradient", "mmd"]

FEATURES = 512
"""Of a state, for ``mmd``: the error of a distance is about 1 / sqrt of it."""
LEAST = 0.1
"""Of the mean difficulty, what a domain has at the least as it is weighed: one that is
like the others is still learned."""


class DomainVectors(DomainSums):
    """A moving mean vector of each domain, and how far it is from the others'.

    Of ``gradient``, vectors are gradients of the next-token loss to the student's last
    hidden states, and a domain is as hard as it pulls elsewhere than all domains
    together: ``1 - cos(g_d, mean g)``, in [0, 2]. Of ``mmd`` they are features of these
    states, and a domain is as hard as its states are distributed otherwise than those
    of the other domains: the maximum mean discrepancy, in [0, sqrt 2].

    Its buffers are part of a checkpoint. Vectors of a step count from the next one on,
    summed over passes and processes, so a domain has one difficulty a step.

    Source:
        Seed table 3-75. Cosine of tasks' gradients: Yu et al. 2020 (arXiv 2001.06782),
        section 2. MMD: Gretton et al. 2012 (JMLR 13), eq. 5, with the kernel
        exp(-|x - y|^2) of states of length 1, by random Fourier features (Rahimi and
        Recht 2007), so that a mean of them is enough. Departures: gradients to the
        states, averaged over tokens, are those of a vector added to them, not of all
        parameters; both are moving means of ten steps or so.
    """

    mean: Tensor
    known: Tensor

    def __init__(self, domains: Sequence[str], signal: Apart, width: int) -> None:
        """Know nothing yet of these domains.

        Args:
            domains: of all texts that are learned from, alike on all processes.
            signal: see above.
            width: C, of the student's hidden states.
        """
        super().__init__(domains)
        self.signal = signal
        count, size = len(self.names), FEATURES if signal == "mmd" else width
        self.register_buffer("mean", torch.zeros(count, size, dtype=torch.float64))
        self.register_buffer("known", torch.zeros(count, dtype=torch.bool))
        self._wait_in(count, size + 1)
        draw = torch.Generator().manual_seed(0)
        drawn = torch.randn(width, FEATURES // 2, generator=draw) * 2**0.5
        self.register_buffer("frequencies", drawn, persistent=False)

    def features(self, states: Tensor) -> Tensor:
        """(N, C) float -> (N, FEATURES) float32, whose products are the kernel's."""
        unit = F.normalize(states.float(), dim=-1)
        with without_autocast(unit):
            angles = unit @ self.get_buffer("frequencies").to(unit.device)
        return torch.cat([angles.cos(), angles.sin()], -1) / (FEATURES // 2) ** 0.5

    @torch.no_grad()
    def difficulty(self, step: int) -> Tensor:
        """(D,) float64 >= 0 on the CPU, before a step; NaN of a domain of which nothing
        is known, and of all where fewer than two are."""
        mean, known = (x.cpu() for x in self._before(step))
        out = torch.full((len(self.names),), torch.nan, dtype=torch.float64)
        here, count = mean[known], int(known.sum())
        if count < 2:
            return out
        if self.signal == "gradient":
            apart = 1 - F.cosine_similarity(here, here.mean(0, keepdim=True), dim=-1)
        else:
            others = (here.sum(0) - here) / (count - 1)
            apart = (here - others).norm(dim=-1)
        out[known] = apart.clamp_min(0)
        return out

    def weights(self, alpha: float, step: int) -> Tensor:
        """(D,) float64 on the CPU, whose mean over the domains that are known is 1; see
        :meth:`student.balance.DomainBalance.weights`."""
        apart = self.difficulty(step)
        known = ~apart.isnan()
        least = LEAST * apart[known].mean() if bool(known.any()) else 0.0
        return weights_by(apart.clamp_min(float(least)), known, alpha)

    @torch.no_grad()
    def note(
        self,
        vectors: Tensor,
        counts: Tensor,
        domains: Sequence[str],
        *,
        step: int,
        total: Sum = list,
    ) -> None:
        """Take note of one pass.

        Args:
            vectors: (B, W) float, the sum over each text's predicted tokens.
            counts: (B,), how many they are.
            domains: of the texts.
            step: optimiser steps taken before it.
            total: over processes, which must all come here.
        """
        rows = torch.cat([vectors.double(), counts[:, None].double()], 1)
        self._add(self._summed(rows, domains), step, total)

    def _take_in(self, step: int) -> None:
        mean, known = self._before(step)
        self.mean.copy_(mean)
        self.known.copy_(known)

    def _before(self, step: int) -> tuple[Tensor, Tensor]:
        """(D, W) means and (D,) which are known, with what waits from an earlier
        step."""
        if not self._waits(step):
            return self.mean, self.known
        counts = self.waiting[:, -1:]
        new = self.waiting[:, :-1] / counts.clamp_min(1)
        moved = MEMORY * self.mean + (1 - MEMORY) * new
        moved = torch.where(self.known[:, None], moved, new)
        came = counts > 0
        return torch.where(came, moved, self.mean), self.known | came[:, 0]
