"""By what the domain of a text multiplies what it costs, and what that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from align.errors import InputError
from align.schedules import Setting, Timetable
from align.schedules.setting import is_on
from align.tokens.weights import label_weight
from student.balance import DomainBalance, DomainSignal, DomainVectors
from student.objective import HiddenOutput, StepContext
from student.output import Labels, linear_divergence
from student.output.divergence.linear import BLOCK
from student.step.records import PassInputs
from student.terms.key_value import next_token_losses

Balance = DomainBalance | DomainVectors


def domain_balance(signal: DomainSignal, domains: Sequence[str], width: int) -> Balance:
    """What a config's ``loss.domain_signal`` goes by.

    Args:
        signal: as it says.
        domains: of all texts that are learned from.
        width: C, of the student's hidden states.
    """
    if signal == "gradient" or signal == "mmd":
        return DomainVectors(domains, signal, width)
    return DomainBalance(domains, signal)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DomainWeights:
    """The weights of a phase's domains."""

    balance: Balance | None
    """What weighs texts by their domains; None where all count alike."""
    setting: Setting
    """``loss.domain_balance``."""
    timetable: Timetable
    """What settings are at a step."""

    def of_texts(self, inputs: PassInputs) -> Tensor | None:
        """(B,) float32, by what the domain of each text multiplies what it costs; None
        where all count alike, or nobody knows the domains."""
        off = self.balance is None or not is_on(self.setting)
        if off or inputs.domains is None:
            return None
        assert self.balance is not None
        place = "loss.domain_balance"
        alpha = self.timetable.value(self.setting, place, inputs.step)
        weights = self.balance.weights(alpha, inputs.step)
        for name, weight in zip(self.balance.names, weights.tolist(), strict=True):
            self.timetable.note(f"{place}[{name}]", weight)
        return self.balance.of_texts(inputs.domains, weights).to(
            inputs.batch.ids.device
        )

    def difficulty(self, step: int) -> dict[str, float]:
        """How hard each domain is before a step, of those that are known."""
        if self.balance is None:
            return {}
        every = self.balance.difficulty(step).tolist()
        known = zip(self.balance.names, every, strict=True)
        return {name: value for name, value in known if not math.isnan(value)}

    def note(self, context: StepContext, inputs: PassInputs) -> None:
        """Take note of a pass of training: what its texts cost the student."""
        domains = inputs.domains
        if self.balance is None or domains is None or not torch.is_grad_enabled():
            return
        if isinstance(self.balance, DomainVectors):
            rows, counts = text_vectors(context, self.balance)
        else:
            rows, counts = next_token_losses(context)
        self.balance.note(
            rows, counts, domains, step=context.step, total=inputs.over_processes
        )


def text_vectors(ctx: StepContext, balance: DomainVectors) -> tuple[Tensor, Tensor]:
    """What each text's predicted tokens are at together, (B, W) float, and how many
    they are, (B,).

    Of ``gradient`` it takes the student's head once more, forward and backward.

    Raises:
        InputError: the student's states before its head are not known.
    """
    output = ctx.output
    if not isinstance(output, HiddenOutput):
        raise InputError(
            f"loss.domain_signal={balance.signal} goes by the student's states before "
            "its head, which are not known of this model; set it to progress or loss"
        )
    predicted, ids = label_weight(ctx.batch) > 0, ctx.batch.ids
    predicted[:, :1] = False
    before = predicted.roll(-1, 1)  # the first place is never predicted: none wraps
    hidden = output.hidden.detach()
    if balance.signal == "mmd":
        texts = zip(hidden, before, strict=True)  # of all at once they are many
        rows = [balance.features(of[there]).double().sum(0) for of, there in texts]
        return torch.stack(rows), predicted.sum(1)
    flat = hidden.flatten(0, 1).requires_grad_()
    head = output.head
    bias = None if head.bias is None else head.bias.detach()
    head = replace(head, weight=head.weight.detach(), bias=bias)
    wanted = ids.masked_fill(~predicted, 0).roll(-1, 1).flatten()
    labels = Labels(wanted, before.flatten().float())
    with torch.enable_grad():
        loss = linear_divergence(flat, head, [], labels=labels, block=BLOCK)
        (gradient,) = torch.autograd.grad(loss, flat)
    return gradient.view_as(hidden).double().sum(1), predicted.sum(1)
