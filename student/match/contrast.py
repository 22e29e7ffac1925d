"""Tell a token's teacher from the teachers of other tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from align.errors import InputError
from align.schedules import ScheduledPositive
from align.schedules.setting import greatest, settled
from align.support.field_types import AtLeastOne
from student.match.whole import evenly_known
from student.objective import EPS


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrastive:
    """Cross-entropy of finding the token's target among those of other tokens.

    It rewards what sets tokens apart, and is not 0 where the student is its teacher.
    A token is told from others of its pass, so that a step depends on how it is cut
    into passes, but with ``perturbed``, and with ``negatives: text`` as long as no pass
    has more than ``tokens``. Perturbed are copies of its own target, drawn as dropout
    is: another each time, from the chance that a checkpoint holds.

    Source:
        InfoNCE, van den Oord et al. 2018 (arXiv 1807.03748), eq. 4, with cosines over a
        temperature as in Tian et al. 2020 (arXiv 1910.10699).
    """

    per_token: ClassVar[bool] = True
    equal_widths: ClassVar[bool] = True
    temperature: ScheduledPositive = 0.1
    negatives: Literal["text", "batch", "all", "perturbed"] = "all"
    """Tokens of the same text, of the batch's other texts, or both; or the token's own
    target, perturbed."""
    perturb: Literal["noise", "dropout"] = "noise"
    """How: Gaussian noise is added, or channels are left out."""
    strength: ScheduledPositive = 0.5
    """Standard deviation of the noise, in units of the target's root mean square; or
    share of the channels, below 1."""
    copies: AtLeastOne = 8
    """Perturbed ones of a token."""
    tokens: AtLeastOne = 512
    """Most tokens of a pass among which a target is to be found, evenly chosen."""

    def __post_init__(self) -> None:
        """Check what is left out.

        Raises:
            InputError: all channels are.
        """
        if self.perturb == "dropout" and greatest(self.strength) >= 1:
            raise InputError(
                f"strength is {self.strength}: dropout leaves out a share of the "
                "channels; give one below 1"
            )

    @property
    def least_texts(self) -> int:
        """Of a pass in which there is something to tell a token from."""
        return 2 if self.negatives == "batch" else 1

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """See :meth:`student.match.distance.Distance.__call__`."""
        if self.negatives == "perturbed":
            return self._among_copies(pred, target)
        layers, batch, tokens = weight.shape
        x, y = (
            F.normalize(side.flatten(1, 2), dim=-1, eps=EPS) for side in (pred, target)
        )
        known = weight.flatten(1)
        chosen = evenly_known(known, self.tokens)
        place = torch.arange(batch * tokens, device=weight.device)
        other = place[:, None] != chosen
        same_text = place[:, None] // tokens == chosen // tokens
        if self.negatives == "text":
            other = other & same_text
        elif self.negatives == "batch":
            other = other & ~same_text
        usable = other & (known[:, chosen] > 0)[:, None]  # (L, N, K)
        against = (x @ y[:, chosen].mT / settled(self.temperature)).masked_fill(
            ~usable, -1e9
        )
        matching = (x * y).sum(-1, keepdim=True) / settled(self.temperature)
        logits = torch.cat([matching, against], -1)
        missed = logits.logsumexp(-1) - matching[..., 0]
        return missed.view(layers, batch, tokens)

    def _among_copies(self, pred: Tensor, target: Tensor) -> Tensor:
        cosines = [F.cosine_similarity(pred, target, dim=-1, eps=EPS)]
        for _ in range(self.copies):
            copy = self._perturbed(target)
            cosines.append(F.cosine_similarity(pred, copy, dim=-1, eps=EPS))
        logits = torch.stack(cosines, -1) / settled(self.temperature)
        return logits.logsumexp(-1) - logits[..., 0]

    def _perturbed(self, target: Tensor) -> Tensor:
        if self.perturb == "dropout":
            return F.dropout(target, settled(self.strength))
        size = target.square().mean(-1, keepdim=True).sqrt()
        return target + settled(self.strength) * size * torch.randn_like(target)
