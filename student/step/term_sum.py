"""The terms of one pass, weighed and added up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from align.errors import InputError
from align.schedules import LossRecord, SeenRecord, Timetable
from align.views import Captured
from student.balance import Balance, Weighing
from student.config import LossConfig
from student.objective import Objective, StepContext, alone, count_of, fades
from student.places import Share
from student.step.records import StepResult, WeightedObjective
from student.terms.signals import pass_sums


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TermSum:
    """The terms of a phase with what their weights come from."""

    objectives: Mapping[str, WeightedObjective]
    """By name."""
    config: LossConfig
    """Says what all terms that fade are multiplied by."""
    timetable: Timetable
    """What settings are at a step."""
    losses: LossRecord | None
    """Takes note of the terms' sizes; None where nobody asks."""
    seen: SeenRecord | None
    """Takes note of outputs, likewise."""
    balance: Balance | None
    """What weighs the terms; None where the config does alone."""

    def total(
        self,
        context: StepContext,
        extra: dict[str, Tensor],
        share: Share | None,
        captured: Captured,
    ) -> StepResult:
        """Weigh the terms of one pass.

        Args:
            context: what they read.
            extra: further losses, which carry their weights already.
            share: what the pass is of its optimiser step; None: it is all there is.
            captured: the student, from which ``context`` is made.

        Raises:
            InputError: a term is called as one of the further losses.
        """
        loss = context.zero()
        # The next-token loss is alone, and reads what terms on outputs have worked out.
        last = sorted(
            self.objectives, key=lambda n: alone(self.objectives[n].objective)
        )
        made = {
            name: _of_step(name, self.objectives[name].objective, context, share)
            for name in last
        }
        values = {name: made[name] for name in self.objectives}
        self._note(values, context.step, share)
        weighing = self._weigh(values, context.step, captured, share)
        for name, value in values.items():
            loss = loss + weighing.factors[name] * value
        terms = {name: value.detach() for name, value in values.items()}
        if weighing.loss is not None:
            part = 1.0 if share is None else share.part
            extra = {"balance": part * weighing.loss, **extra}
        for name, value in extra.items():
            if name in terms:
                raise InputError(
                    f"the term {name!r} is called as a loss that the space or the "
                    "router has of its own; call the term otherwise in loss.terms"
                )
            loss = loss + value
            terms[name] = value.detach()
        weights = {} if self.balance is None else weighing.logged
        layers = {
            name: chosen
            for name, weighted in self.objectives.items()
            if (chosen := getattr(weighted.objective, "chosen", None)) is not None
        }
        return StepResult(loss=loss, terms=terms, weights=weights, chosen=layers)

    def note_outputs(self, context: StepContext, share: Share | None) -> None:
        """Take note of what schedules go by that look at outputs."""
        if self.seen is None or context.outputs is None:
            return
        sums = pass_sums(context.outputs, self.timetable.signals)
        total = list if share is None else share.over_processes
        added = total(list(sums.values()))
        self.seen.note_sums(dict(zip(sums, added, strict=True)), context.step)

    def _note(
        self, values: Mapping[str, Tensor], step: int, share: Share | None
    ) -> None:
        if self.losses is not None:
            sizes = [float(value.detach()) for value in values.values()]
            sizes = sizes if share is None else share.over_processes(sizes)
            self.losses.note(sizes, step)

    def _weigh(
        self,
        values: Mapping[str, Tensor],
        step: int,
        captured: Captured,
        share: Share | None,
    ) -> Weighing:
        """The config's weights at a step, or what the balancer makes of them."""
        asked = self.timetable.value
        fade = asked(self.config.fading, "loss.fade", step)
        weights = {
            name: asked(o.weight, o.place or f"loss.terms.{name}.weight", step)
            * (fade if fades(o.objective) else 1)
            for name, o in self.objectives.items()
        }
        if self.balance is None:
            return Weighing(factors=weights, loss=None)
        total = list if share is None else share.over_processes
        counts = {} if share is None else share.learned.terms
        compared = {name: numbers[0] > 0 for name, numbers in counts.items() if numbers}
        return self.balance.weigh(
            values,
            weights,
            captured,
            step=step,
            seed=self.timetable.seed,
            total=total,
            compared=compared,
        )


def _of_step(
    name: str, objective: Objective, context: StepContext, share: Share | None
) -> Tensor:
    """A term's part of the step's mean."""
    context = replace(context, place=f"loss.terms.{name}")
    if share is None:
        return objective(context)
    context = replace(context, over_processes=share.over_processes)
    if count_of(objective) is not None:
        return objective(replace(context, totals=share.learned.terms[name]))
    return share.part * objective(context)
