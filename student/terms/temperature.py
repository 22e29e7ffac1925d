"""The temperature of a comparison, by the rule that the config names.

Every term on outputs that has a temperature asks here, so a rule reaches all of them,
and what a rule may not give is refused by its name in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from align.errors import InputError
from align.schedules.setting import is_schedule, schedule_of
from align.views import LinearHead
from student.output import HeadInput, Labels, linear_divergence, linear_top_tokens
from student.output.across.pairing import after
from student.output.temperature import gradient_signal_to_noise
from student.step_outputs import Outputs


@dataclass(frozen=True, slots=True, eq=False)
class Spots:
    """N places at which the student is compared with one teacher."""

    rows: Tensor
    """(N,) int64 into the student's B * T."""
    teacher: HeadInput
    """(N, C_t)."""
    weight: Tensor
    """(N,) float32 >= 0."""
    distance: Callable[[Tensor, LinearHead], Tensor]
    """The comparison at ``output.temperature``, of (B * T, C) hidden states of the
    student's through a head; asked only by rules that look at gradients."""


def temperature_at(outputs: Outputs, spots: Spots) -> float | Tensor:
    """One temperature, or (N,).

    Raises:
        InputError: the rule gives something else than finite numbers > 0.
    """
    config, teacher, timetable = outputs.config, spots.teacher, outputs.timetable
    short = not is_schedule(config.temperature)
    option = next(
        (x for x in outputs.own if x.startswith("temperature")), "temperature"
    )
    setting = f"{outputs.place_of(option).rpartition('.')[0]}.temperature"
    place = f"{setting}_rule" if short else setting

    def entropy() -> Tensor:
        return linear_top_tokens(teacher.hidden, teacher.head, 1, config.block).entropy

    schedule = schedule_of(config.heat, place)
    moment = timetable.moment(
        schedule,
        place,
        outputs.step,
        vocabulary=min(outputs.student.head.size, teacher.head.size),
        teacher_entropy=entropy,
        signal_to_noise=lambda: _signal_to_noise(outputs, spots),
    )
    temperature = timetable.ask(schedule, place, moment)
    said = f"{place}={schedule.rule!r}" if short else f"{place}: rule {schedule.rule!r}"
    _check(temperature, len(spots.rows), f"{said} gives", outputs.step)
    if schedule.rule != "constant" and len(spots.rows):
        timetable.note(setting, _mean(temperature))
    return temperature


def _mean(temperature: float | Tensor) -> float:
    if isinstance(temperature, Tensor):
        return float(temperature.mean())
    return temperature


def _check(temperature: object, count: int, saying: str, step: int) -> None:
    wrong: object = None
    if isinstance(temperature, Tensor):
        good = temperature.isfinite() & (temperature > 0)
        if temperature.shape not in ((), (count,)):
            wrong = f"a tensor of shape {tuple(temperature.shape)}"
        elif not bool(good.all()):
            wrong = float(temperature.flatten()[~good.flatten()][0])
    elif isinstance(temperature, bool) or not isinstance(temperature, int | float):
        wrong = repr(temperature)
    elif not 0 < temperature < math.inf:
        wrong = temperature
    if wrong is not None:
        raise InputError(
            f"{saying} {wrong} at step {step}; a temperature is a finite number > 0, "
            f"or a tensor of one for each of the {count} places: mend the rule or "
            "choose another"
        )


def _signal_to_noise(outputs: Outputs, spots: Spots) -> tuple[float, float]:
    """Of the gradients to the student's hidden states: distance, cross-entropy."""
    student = outputs.student
    if not len(spots.rows):
        return 0.0, 0.0
    hidden = student.hidden.detach().flatten(0, 1).requires_grad_()
    bias = None if student.head.bias is None else student.head.bias.detach()
    head = replace(student.head, weight=student.head.weight.detach(), bias=bias)
    counted = after(student.tokens.predicted.float()).flatten()
    labels = Labels(after(student.tokens.ids).flatten(), counted)
    with torch.enable_grad():
        losses = (
            spots.distance(hidden, head),
            linear_divergence(
                hidden, head, [], labels=labels, block=outputs.config.block
            ),
        )
        of_distance, of_labels = (
            torch.autograd.grad(loss, hidden)[0] for loss in losses
        )
    return (
        gradient_signal_to_noise(of_distance[spots.rows], spots.weight),
        gradient_signal_to_noise(of_labels, counted),
    )
