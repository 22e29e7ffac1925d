"""The temperature of a comparison, by the rule that the config names.

Every term on outputs that has a temperature asks here, so a rule reaches all of them,
and what a rule may not give is refused by its name in all of them.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from align.errors import InputError
from align.schedules.setting import is_schedule, schedule_of
from student.step_outputs import Outputs
from student.terms.signals import (
    Spots,
    at_temperature,
    domain_difficulty,
    logit_spread,
    loss_gap,
    parameters,
    signal_to_noise,
    teacher_entropy,
)


def temperature_at(outputs: Outputs, spots: Spots) -> float | Tensor:
    """One temperature, or (N,).

    Raises:
        InputError: the rule gives something else than finite numbers > 0.
    """
    config, timetable = outputs.config, outputs.timetable
    short = not is_schedule(config.temperature)
    option = next(
        (x for x in outputs.own if x.startswith("temperature")), "temperature"
    )
    setting = f"{outputs.place_of(option).rpartition('.')[0]}.temperature"
    place = f"{setting}_rule" if short else setting

    schedule = schedule_of(config.heat, place)
    moment = timetable.moment(
        schedule,
        place,
        outputs.step,
        vocabulary=min(outputs.student.head.size, spots.teacher.head.size),
        teacher_entropy=partial(teacher_entropy, outputs, spots),
        signal_to_noise=partial(signal_to_noise, outputs, spots),
        parameters=partial(parameters, outputs, spots),
        logit_spread=partial(logit_spread, outputs, spots),
        loss_gap=partial(loss_gap, outputs, spots),
        at_temperature=partial(at_temperature, outputs, spots),
        difficulty=partial(domain_difficulty, outputs, spots),
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
