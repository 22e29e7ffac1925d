"""Where a pass compares anything and what that weighs, before the student has read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from align.reading import Reading
from align.tokens.batch import TokenBatch
from align.tokens.weights import text_weight
from fuse.weigher import prior
from student.bridges.base import Bridge
from student.objective import count_of
from student.places import Counts, Places, availability, find_places
from student.step.records import WeightedObjective
from student.step_outputs import OutputPlan


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Surveyor:
    """Counts the places of everything that is summed up over a step."""

    objectives: Mapping[str, WeightedObjective]
    """By name."""
    weigher: nn.Module | None
    """Of the teachers; None without any."""
    bridge: Bridge | None
    """Of the teachers that bring keys and values; None where nobody meets there."""
    learns_routing: bool
    """Whether the weigher has parameters."""
    skip_sinks: int
    """Leading tokens that are left out."""
    plan: OutputPlan | None
    """Of terms on outputs."""

    @torch.no_grad()
    def survey(
        self, batch: TokenBatch, readings: Sequence[Reading], rows: Tensor | None
    ) -> tuple[Places, Counts]:
        """The places of one pass, with what they weigh.

        Args:
            batch: the student's tokens, (B, T).
            readings: one per teacher, in the bridge's order.
            rows: (B, R) int64 query positions.
        """
        available = availability(batch, readings)
        weight = (
            available.float()
            if self.weigher is None
            else prior(self.weigher, available)
        )
        places = find_places(
            batch,
            readings,
            rows=rows,
            weight=text_weight(batch, weight),
            skip_sinks=self.skip_sinks,
            plan=self.plan,
        )
        return places, Counts(places.predicted, self._counts(places))

    def of_terms(self, places: Places) -> Counts:
        """What places weigh for the student and for every term that counts."""
        return Counts(places.predicted, self._counts_of_terms(places))

    def _counts_of_terms(self, places: Places) -> dict[str, tuple[float, ...]]:
        return {
            name: tuple(count(places))
            for name, weighted in self.objectives.items()
            if (count := count_of(weighted.objective)) is not None
        }

    def _counts(self, places: Places) -> dict[str, tuple[float, ...]]:
        """Of the terms, and of what else is a mean over a step."""
        counts = self._counts_of_terms(places)
        if self.weigher is None:
            return counts
        if self.bridge is not None:
            counts |= self.bridge.auxiliary_counts(places.met)
            counts["outcome"] = (places.labelled,)
        if self.learns_routing:
            known = torch.tensor([r.bits for r in places.readings])
            heard = places.available & known.to(places.available.device)
            counts |= {
                "teacher_loss": (float(heard.any(-1).sum()),),
                "entropy": (float(places.available.any(-1).sum()),),
            }
        return counts
