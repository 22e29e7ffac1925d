"""All selectors of a phase together: what one pass learns, and what it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from align.errors import InputError
from student.places import Selected
from student.select.candidates import Candidates, selector_needs
from student.select.choice import KV, NEXT_TOKEN, OUTPUTS

PATIENCE = 10
"""Optimiser steps in a row of which nothing is kept before a run stops."""


@dataclass(frozen=True, slots=True)
class Selecting:
    """One selector with what its weights multiply."""

    selector: Any
    on: Sequence[str]
    """Of :data:`student.select.choice.ON`."""
    options: Mapping[str, Any]
    """Of the selector, as the config says them, for errors."""


class Selection(nn.Module):
    """The selectors of a phase; what they remember is part of a checkpoint."""

    idle: Tensor
    """() int64, steps in a row of which nothing was kept."""

    def __init__(self, selectors: Mapping[str, Selecting]) -> None:
        """Take them by name.

        Raises:
            InputError: one learns, which nothing would train.
        """
        super().__init__()
        self._selectors = dict(selectors)
        modules = {}
        for name, each in self._selectors.items():
            if isinstance(each.selector, nn.Module):
                modules[f"{name}-selector"] = each.selector
                if any(p.requires_grad for p in each.selector.parameters()):
                    raise InputError(
                        f"loss.select.{name} has parameters that learn, and nothing "
                        "would train them; keep what it remembers in buffers"
                    )
        self.remembering = nn.ModuleDict(modules)
        self.needs = frozenset().union(
            *(selector_needs(each.selector) for each in self._selectors.values())
        )
        """What they are told, see :mod:`fuse.signals`."""
        self.register_buffer("idle", torch.tensor(0))

    @torch.no_grad()
    def weigh(self, candidates: Candidates, routing: Tensor) -> Selected:
        """What one pass learns.

        Args:
            candidates: its places.
            routing: (B, T, M) or (L, B, T, M) float32, the teachers' weights.
        """
        shares = (routing.mean(0) if routing.dim() == 4 else routing).detach()
        shape, device = candidates.known.shape, candidates.known.device
        parts = {
            KV: torch.ones(shape, device=device),
            OUTPUTS: torch.ones(shape, device=device),
            NEXT_TOKEN: torch.ones(shape[:2], device=device),
        }
        weights: dict[str, Tensor] = {}
        for name, each in self._selectors.items():
            asked = replace(candidates, place=f"loss.select.{name}")
            weight = each.selector(asked).detach().float()
            by_teacher = (
                weight if weight.dim() == 3 else weight[..., None].expand(shape)
            )
            mean = weight if weight.dim() == 2 else _mean(weight, shares)
            if KV in each.on:
                parts[KV] = parts[KV] * by_teacher
            if OUTPUTS in each.on:
                parts[OUTPUTS] = parts[OUTPUTS] * _of_next(by_teacher)
            if NEXT_TOKEN in each.on:
                parts[NEXT_TOKEN] = parts[NEXT_TOKEN] * _of_next(mean)
            weights[name] = mean
        changed = {
            name: None if bool((part == 1).all()) else part
            for name, part in parts.items()
        }
        return Selected(
            kv=changed[KV],
            outputs=changed[OUTPUTS],
            next_token=changed[NEXT_TOKEN],
            weights=weights,
            counted=candidates.known.any(-1),
        )

    @torch.no_grad()
    def note(self, candidates: Candidates) -> None:
        """Have the selectors remember a pass of training."""
        for name, each in self._selectors.items():
            note = getattr(each.selector, "note", None)
            if note is not None:
                note(replace(candidates, place=f"loss.select.{name}"))

    @torch.no_grad()
    def check(self, kept: Mapping[str, tuple[float, float]]) -> None:
        """Stop a run that goes on learning nothing.

        Args:
            kept: of one step, see :attr:`student.places.Selected.kept`.

        Raises:
            InputError: nothing was kept for many steps.
        """
        nothing = [n for n, (some, of) in kept.items() if of > 0 and some == 0]
        self.idle.fill_(int(self.idle) + 1 if nothing else 0)
        if int(self.idle) < PATIENCE:
            return
        named = ", ".join(
            f"{n} a share of {some / of if of else 0:.3g} of {of:.0f}"
            for n, (some, of) in kept.items()
        )
        raise InputError(
            f"loss.select has kept nothing for {PATIENCE} optimiser steps; of the "
            f"places of the last, {named}: {self._said}. Move a threshold, give a "
            "percentile, or leave a selector out"
        )

    @property
    def _said(self) -> str:
        return "; ".join(
            f"loss.select.{name} is {dict(each.options) or 'without options'}"
            for name, each in self._selectors.items()
        )

    @property
    def on(self) -> frozenset[str]:
        """What any of them multiplies."""
        return frozenset().union(*(each.on for each in self._selectors.values()))


def _of_next(weight: Tensor) -> Tensor:
    """(B, T, ...) of places, as that of the tokens that are predicted there; 1 of the
    first, which is never predicted."""
    return torch.cat([torch.ones_like(weight[:, :1]), weight[:, :-1]], 1)


def _mean(weight: Tensor, shares: Tensor) -> Tensor:
    """(B, T) of (B, T, M) by the teachers' shares; 1 where there is no teacher."""
    total = shares.sum(-1)
    mean = (weight * shares).sum(-1) / total.clamp_min(1e-9)
    return mean.where(total > 0, 1.0)
