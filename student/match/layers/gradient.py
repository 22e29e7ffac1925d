"""How long the gradients are that a term gives the student's layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

_SLOW = 0.9
"""What of a running mean stays with every step."""


class GradientLengths(nn.Module):
    """How long the gradient is that a term gives every layer, a running mean.

    Measured before the layers' weights and on all that may be compared, so that none
    wins by having won. A length is that of the whole step's gradient: squares
    add up over passes, processes and teachers, however a step is split. Every step
    counts by its layers' shares; what it finds is used from the next one on.

    Source:
        Recipes for distillation weigh layer l by λ exp(η G_l / ΣG), G its gradient's
        length. Departure: by G_l / ΣG itself, which needs no η and stays bounded.
    """

    mean: Tensor
    squares: Tensor
    step: Tensor

    def __init__(self, layers: int) -> None:
        """Know nothing of so many layers."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(layers))
        self.register_buffer("squares", torch.zeros(layers, dtype=torch.float64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def turn(self, step: int) -> None:
        """Let a step begin: what the last one gathered counts from now on."""
        if step == int(self.step):
            return
        self.step.fill_(step)
        lengths = self.squares.sqrt()
        total = lengths.sum()
        if total > 0:
            shares, known = lengths / total, self.mean.sum() > 0
            mixed = _SLOW * self.mean + (1 - _SLOW) * shares
            self.mean.copy_(torch.where(known, mixed, shares))
        self.squares.zero_()

    def of(self, costs: Tensor, features: Tensor, kept: Sequence[int]) -> Tensor:
        """Squares of those of one pass, (L',) float64; 0 where nothing is to learn.

        Args:
            costs: (L',), of every kept layer.
            features: (L, B, T, C) of the student, from which they come.
            kept: numbers of L' among L.
        """
        learns = torch.is_grad_enabled() and features.requires_grad
        if not (learns and costs.requires_grad):
            return torch.zeros_like(self.mean, dtype=torch.float64)
        total = costs.sum()
        (gradient,) = torch.autograd.grad(total, features, retain_graph=True)
        norms = gradient[list(kept)].detach().float().flatten(1).norm(dim=1)
        return norms.double().square()

    @torch.no_grad()
    def gather(
        self, squares: Tensor, total: Callable[[Sequence[float]], list[float]]
    ) -> None:
        """Add the squares of a pass, of all processes, which must all come here."""
        every = total(squares.tolist())
        self.squares += self.squares.new_tensor(every)

    def ranked(self) -> list[int] | None:
        """Places of all layers, the longest gradient first; None: nothing is known."""
        if not float(self.mean.sum()):
            return None
        order: list[int] = self.mean.argsort(descending=True, stable=True).tolist()
        return order

    def shares(self, places: Sequence[int]) -> Tensor:
        """(L',) summing to 1; equal ones while nothing is known."""
        lengths = self.mean[list(places)]
        total = lengths.sum()
        equal = torch.full_like(lengths, 1 / len(lengths))
        return torch.where(total > 0, lengths / total.clamp_min(1e-30), equal)
