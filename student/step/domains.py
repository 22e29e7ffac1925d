"""By what the domain of a text multiplies what it costs, and what that follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from align.schedules import Setting, Timetable
from student.balance import DomainBalance
from student.objective import StepContext
from student.step.records import PassInputs
from student.terms.key_value import next_token_losses


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DomainWeights:
    """The weights of a phase's domains."""

    balance: DomainBalance | None
    """What weighs texts by their domains; None where all count alike."""
    setting: Setting
    """``loss.domain_balance``."""
    timetable: Timetable
    """What settings are at a step."""

    def of_texts(self, inputs: PassInputs) -> Tensor | None:
        """(B,) float32, by what the domain of each text multiplies what it costs; None
        where all count alike, or nobody knows the domains."""
        if self.balance is None or inputs.domains is None:
            return None
        place = "loss.domain_balance"
        alpha = self.timetable.value(self.setting, place, inputs.step)
        weights = self.balance.weights(alpha, inputs.step)
        for name, weight in zip(self.balance.names, weights.tolist(), strict=True):
            self.timetable.note(f"{place}[{name}]", weight)
        return self.balance.of_texts(inputs.domains, weights).to(
            inputs.batch.ids.device
        )

    def note(self, context: StepContext, inputs: PassInputs) -> None:
        """Take note of a pass of training: what its texts cost the student."""
        domains = inputs.domains
        if self.balance is None or domains is None or not torch.is_grad_enabled():
            return
        losses, counts = next_token_losses(context)
        self.balance.note(
            losses, counts, domains, step=context.step, total=inputs.over_processes
        )
