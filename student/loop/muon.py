"""Muon for the matrices inside the student, AdamW for all else, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

MATRICES = "muon"
"""Key of a parameter group: True where Muon is to step it."""


class MuonAdamW(torch.optim.Optimizer):
    """Steps groups marked :data:`MATRICES` by Muon, and the others by AdamW.

    Both are PyTorch's own. They share this optimiser's groups, so that a learning rate
    set here is theirs, and its state.

    Source:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks":
        momentum 0.95 with Nesterov's look ahead, made orthogonal by five steps of
        Newton and Schulz in bfloat16, scaled by sqrt(max(1, rows / columns)).
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], betas: tuple[float, float]
    ) -> None:
        """Take groups with ``lr`` and ``weight_decay``; ``betas`` are AdamW's.

        Raises:
            ValueError: a group for Muon holds what is no matrix.
        """
        super().__init__(list(groups), {MATRICES: False})
        kinds: tuple[tuple[bool, Callable[..., torch.optim.Optimizer], Any], ...] = (
            (True, torch.optim.Muon, {}),
            (False, torch.optim.AdamW, {"betas": betas}),
        )
        self._parts = {
            matrices: build(self._groups(matrices), **settings)
            for matrices, build, settings in kinds
            if self._groups(matrices)
        }

    def _groups(self, matrices: bool) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group[MATRICES] is matrices]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step of both."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for matrices, part in self._parts.items():
            # Each time: loading a state, as accelerate does, makes both anew.
            part.param_groups, part.state = self._groups(matrices), self.state
            part.step()
        for group in self._groups(True):
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _count(self.state[parameter])
        return loss


def _count(held: dict[str, Any]) -> None:
    """Note a step, as AdamW does of its own: checkpoints ask how many there were."""
    held["step"] = held.get("step", torch.tensor(0.0)) + 1
