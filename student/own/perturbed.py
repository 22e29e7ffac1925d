"""Have the student read its text once more, with other input embeddings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from align.products.autocast import without_autocast
from align.schedules import ScheduledPositive
from align.tokens.weights import label_weight, text_weight
from student.objective import NONE, StepContext
from student.own.labels import label_loss, next_ids, next_weight
from student.places import Places

_LEAST = 1e-12


class Mixup:
    """The next-token loss of two texts of a pass read as one, nats per token.

    Each text is mixed with the one before it in the pass, token by token, in the input
    embeddings: ``λ e + (1 - λ) e'``; both are to be predicted, by λ and 1 - λ. Where
    one of them has ended, the other stands alone. With one text a pass it is the
    next-token loss itself.

    Source:
        Zhang et al. 2018, mixup (arXiv 1710.09412), with ``λ ~ Beta(alpha, alpha)``
        drawn once a step, alike in all passes and processes; in the embeddings, as Guo,
        Mao and Zhang 2019 (arXiv 1905.08941) mix sentences.
    """

    alone = True
    compares = False
    needs = NONE

    def __init__(self, *, alpha: ScheduledPositive = 0.2) -> None:
        """Say how even mixtures are.

        Args:
            alpha: of the beta distribution; small: mostly one of both.
        """
        self._alpha = alpha

    def __call__(self, ctx: StepContext) -> Tensor:
        """See :class:`student.objective.Objective`."""
        batch = ctx.batch
        alpha = ctx.number(self._alpha, "alpha")
        share = float(
            np.random.default_rng(ctx.chance().initial_seed()).beta(alpha, alpha)
        )
        part, rest = batch.mask * share, batch.mask.roll(1, 0) * (1 - share)
        part = part / (part + rest).clamp_min(_LEAST)

        def mixed(embedded: Tensor) -> Tensor:
            kept = part[..., None].to(embedded.dtype)
            return kept * embedded + (1 - kept) * embedded.roll(1, 0)

        assert ctx.reread is not None
        output = ctx.reread(mixed, batch.mask | batch.mask.roll(1, 0)).output
        weight = next_weight(label_weight(batch))
        weight = ctx.of_texts(weight) * (1 / ctx.total(0, float(weight.sum())))
        ids = next_ids(batch.ids)
        loss = label_loss(output, ids, share * weight)
        return loss + label_loss(
            output, ids.roll(1, 0), (1 - share) * weight.roll(1, 0)
        )

    def count(self, places: Places) -> list[float]:
        """Tokens that are predicted, by their texts' weights."""
        return [places.labelled]


class Smoothness:
    """By how much the last hidden states move when the input embeddings do.

    ``(‖h' - h‖ / ‖h‖)² / (‖e' - e‖ / ‖e‖)²``, a mean over text tokens, with noise on
    every embedding that is ``radius`` as long as itself, alike in all texts: the square
    of a local Lipschitz constant, both sides measured by their own lengths. Dropout
    would be a second noise beside it.

    Source:
        Penalties on Lipschitz constants, as of Miyato et al. 2018 (arXiv 1704.03976),
        who look for the worst direction and compare distributions, where this draws
        one direction and compares hidden states.
    """

    alone = True
    compares = False
    needs = NONE

    def __init__(self, *, radius: ScheduledPositive = 0.01) -> None:
        """Say how large the noise is.

        Args:
            radius: its length, in lengths of the embedding.
        """
        self._radius = radius

    def __call__(self, ctx: StepContext) -> Tensor:
        """See :class:`student.objective.Objective`."""
        chance = ctx.chance()
        radius = ctx.number(self._radius, "radius")

        def noisy(embedded: Tensor) -> Tensor:
            noise = torch.randn(embedded.shape[1:], generator=chance).to(embedded)
            length = embedded.detach().norm(dim=-1, keepdim=True)
            unit = noise / noise.norm(dim=-1, keepdim=True).clamp_min(_LEAST)
            return embedded + radius * length * unit

        assert ctx.reread is not None
        again = ctx.reread(noisy, ctx.batch.mask)
        with without_autocast(again.hidden):
            first, moved = _wide(ctx.reread.hidden), _wide(again.hidden)
            length = first.detach().square().sum(-1).clamp_min(_LEAST)
            apart = (moved - first).square().sum(-1) / length / radius**2
            known = ctx.batch.has_text
            weight = text_weight(ctx.batch, known).to(apart)
            total = ctx.total(0, float(weight.sum()))
            return (torch.where(known, apart, 0.0) * weight).sum() / total

    def count(self, places: Places) -> list[float]:
        """Text tokens, by their texts' weights."""
        weight = text_weight(places.batch, places.batch.has_text)
        return [float(weight.double().sum())]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
