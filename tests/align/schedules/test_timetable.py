import math
from dataclasses import dataclass

import pytest
import torch

from align.errors import InputError
from align.schedules import RULES, Moment, SeenRecord, Timetable, reads
from align.support.field_types import Positive, ShareBelowOne
from fuse.config import FuseConfig
from student.config import LossConfig
from student.match import DISTANCES
from student.output.temperature import TEMPERATURES

MOVE = {"from": 1.0, "to": 0.0, "steps": 4}


def test_what_moves_is_noted_and_a_number_is_not():
    timetable = Timetable()
    assert timetable.value(0.5, "loss.b", 3) == 0.5
    assert timetable.value(MOVE, "loss.a", 3) == 0.25
    assert timetable.taken() == {"loss.a": 0.25}
    assert timetable.taken() == {}


def test_a_setting_that_differs_between_teachers_is_noted_as_their_mean():
    timetable = Timetable()
    timetable.note("output.temperature", 1.0)
    timetable.note("output.temperature", 4.0)
    assert timetable.taken() == {"output.temperature": 2.5}


def test_a_schedule_without_steps_needs_a_phase():
    setting = {"from": 1.0, "to": 0.0}
    with pytest.raises(InputError, match=r"loss\.a\.steps is null.*give steps"):
        Timetable().value(setting, "loss.a", 0)
    assert Timetable(10).value(setting, "loss.a", 5) == 0.5


def test_a_rule_nobody_offers_is_refused_with_those_there_are():
    with pytest.raises(InputError, match=r"loss\.a\.rule is 'wobble'; give one of con"):
        Timetable().value(MOVE | {"rule": "wobble"}, "loss.a", 0)


@pytest.mark.parametrize(
    "wrong", [-1.0, math.nan, math.inf, True, torch.ones(2), None, "2"]
)
def test_what_a_rule_may_not_give_is_refused_with_place_and_step(wrong):
    timetable = Timetable(rules={**RULES, "mine": lambda moment: wrong})
    with pytest.raises(InputError, match=r"loss\.a: the rule mine gives .* at step 2"):
        timetable.value(MOVE | {"rule": "mine"}, "loss.a", 2)


def test_what_a_rule_gives_is_of_the_setting_s_own_range_at_every_step():
    timetable = Timetable(
        rules={**RULES, "mine": lambda moment: 5.0 * moment.step},
        numbers={"loss.smoothing": ShareBelowOne},
    )
    setting = {"from": 0.0, "to": 0.5, "steps": 4, "rule": "mine"}
    assert timetable.value(setting, "loss.smoothing", 0) == 0
    said = r"loss\.smoothing: the rule mine gives 5\.0 at step 1; .* number in \[0, 1\)"
    with pytest.raises(InputError, match=said):
        timetable.value(setting, "loss.smoothing", 1)
    assert timetable.value(setting, "loss.lambda_k", 1) == 5  # any number >= 0
    contrast = DISTANCES["contrastive"](temperature=setting | {"from": 0.1})
    said = r"here\.temperature: the rule mine gives 0\.0 at step 0; .* a number > 0"
    with pytest.raises(InputError, match=said):
        timetable.options(contrast, "here", 0)


def test_a_curve_keeps_between_its_ends_to_the_last_bit():
    setting = {"from": 4.0, "to": 1e-20, "steps": 4}
    assert 4.0 + (1e-20 - 4.0) == 0  # as the line is drawn
    assert Timetable(numbers={"t": Positive}).value(setting, "t", 4) == 1e-20


def test_rules_that_go_by_what_was_seen_say_from_before_anyone_notes_it():
    """As a phase's transforms are put on, before there is a distiller."""
    timetable = Timetable(
        4, rules=TEMPERATURES, reads_losses=True, signals={"teacher_entropy"}
    )
    for rule in ("loss", "entropy"):
        setting = {"from": 0.25, "to": 1.0, "rule": rule}
        assert timetable.value(setting, "transform.x.strength", 0) == 0.25


def asks_the_teacher(moment: Moment) -> float:
    return float(moment.teacher_entropy().mean())


def asks_the_gradients(moment: Moment) -> float:
    return moment.signal_to_noise()[0]


@pytest.mark.parametrize("rule", [asks_the_teacher, asks_the_gradients])
def test_a_rule_that_asks_for_what_is_not_there_is_told_so(rule):
    timetable = Timetable(rules={"mine": rule})
    with pytest.raises(InputError, match=r"loss\.a: the rule mine: no .* known here"):
        timetable.value(MOVE | {"rule": "mine"}, "loss.a", 0)


def test_a_rule_is_called_with_its_options():
    def bumpy(moment: Moment, *, bumps: int = 1) -> float:
        return moment.start + bumps * moment.step

    timetable = Timetable(rules={"bumpy": bumpy})
    assert timetable.value(MOVE | {"rule": "bumpy", "bumps": 3}, "x", 2) == 7.0


@pytest.mark.parametrize(("steps", "to"), [(7, 0.3), (40, 0.1), (3, 0.0)])
def test_a_fade_is_what_it_was_before_there_were_schedules(steps, to):
    fading = LossConfig(fade_steps=steps, fade_to=to).fading
    for step in range(steps + 2):
        before = 1 - (1 - to) * min(1.0, step / steps)
        assert Timetable().value(fading, "loss.fade", step) == before


@pytest.mark.parametrize(("steps", "strength"), [(7, 0.03), (40, 0.1)])
def test_an_entropy_that_warms_up_is_what_it_was_to_two_units_of_the_last_place(
    steps, strength
):
    setting = FuseConfig(entropy_reg_strength=strength, entropy_warmup_steps=steps)
    for step in range(steps + 2):
        before = strength * step / steps if step < steps else strength
        now = Timetable().value(setting.entropy_strength, "here", step)
        assert abs(now - before) <= 2 * math.ulp(before)


@dataclass(frozen=True)
class Options:
    beta: object = 1.0
    name: str = "x"


def test_options_are_numbers_at_a_step_and_noted_by_their_names():
    timetable, still = Timetable(), Options()
    assert timetable.options(Options(beta=MOVE), "here", 1) == Options(beta=0.75)
    assert timetable.taken() == {"here.beta": 0.75}
    assert timetable.options(still, "here", 1) is still
    assert timetable.options(Options, "here", 1) is Options  # what makes them
    assert timetable.taken() == {}


@reads("teacher_entropy", "loss_gap")
def by_both(moment: Moment) -> float:
    entropy, gap = float(moment.teacher_entropy()), float(moment.loss_gap())
    return moment.start + entropy + gap + moment.vocabulary / 100


def test_a_number_goes_by_the_mean_of_what_outputs_were_before_the_step():
    timetable = Timetable(
        rules={"both": by_both}, signals={"teacher_entropy", "loss_gap"}
    )
    timetable.seen = SeenRecord()

    def at(step: int) -> float:
        return timetable.value(MOVE | {"rule": "both"}, "loss.a", step)

    assert at(0) == 1 + 1 / 100  # nothing is known: entropy and gap are 0
    sums = dict.fromkeys(("teacher_spread", "student_tokens", "student_spread"), 0.0)
    first = {"tokens": 2.0, "log_vocabulary": 2 * math.log(50), "teacher_entropy": 1.0}
    second = {"tokens": 6.0, "log_vocabulary": 6 * math.log(50), "teacher_entropy": 5.0}
    timetable.seen.note_sums(sums | first | {"stretches": 0.0, "loss_gap": 0.0}, 0)
    timetable.seen.note_sums(sums | second | {"stretches": 4.0, "loss_gap": 8.0}, 0)
    assert at(0) == 1 + 1 / 100
    assert at(1) == pytest.approx(1 + 6 / 8 + 8 / 4 + 50 / 100)
    other = SeenRecord()
    other.load_state_dict(timetable.seen.state_dict())
    timetable.seen, before = other, at(1)
    assert at(1) == before
