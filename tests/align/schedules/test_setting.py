import pytest

from align.errors import InputError
from align.schedules import (
    ScheduledNotNegative,
    ScheduledPositive,
    ScheduledRate,
    ScheduledShareBelowOne,
    is_on,
)
from align.schedules.setting import in_short, schedule_of
from align.support.field_types import checked, in_words


def test_a_number_stays_a_number_and_texts_of_a_command_line_become_some():
    assert checked(ScheduledNotNegative, 2, "loss.x") == 2.0
    assert checked(ScheduledNotNegative, "2.5", "loss.x", from_text=True) == 2.5
    typed = {"from": "1", "to": "0", "steps": "10", "rule": "cosine"}
    read = checked(ScheduledNotNegative, typed, "loss.x")
    assert read == {"from": 1.0, "to": 0.0, "steps": 10, "rule": "cosine"}
    assert schedule_of(read, "loss.x").rule == "cosine"


WRONG = [
    (-1, r"loss\.x is -1; give a number >= 0 or a schedule \{from, to, steps, rule\}"),
    ({"from": -1, "to": 0}, r"loss\.x\.from is -1; give a number >= 0"),
    ({"from": 1, "to": float("nan")}, r"loss\.x\.to is nan; give a number >= 0"),
    ({"from": 1, "to": 0, "steps": -4}, r"loss\.x\.steps is -4; give an integer >= 0"),
    ({"from": 1, "to": 0, "steps": 2.5}, r"loss\.x\.steps is 2\.5; give an integer"),
    ({"from": 1}, r"loss\.x is \{'from': 1\}, which does not say 'to'"),
    ({"to": 1}, r"loss\.x is \{'to': 1\}, which does not say 'from'"),
    ({"from": 1, "too": 0, "to": 1}, r"loss\.x\.too is not known; did you mean 'to'\?"),
    ({"from": 1, "to": 0, "rule": 3}, r"loss\.x\.rule is 3; give a text"),
    (
        {"from": 0, "to": 1, "rule": "exponential"},
        r"loss\.x: the rule exponential goes by equal factors from 0\.0 to 1\.0; give "
        "two numbers > 0",
    ),
    ({"from": 1, "to": 0, "rule": "step", "count": 0}, r"loss\.x\.count is 0; give an"),
    (
        {"from": 1, "to": 0, "rule": "step", "curve": "exponential"},
        r"loss\.x: the rule step goes by equal factors from 1\.0 to 0\.0",
    ),
    (
        {"from": 0, "to": 1, "rule": "three_part", "peak": -2},
        r"loss\.x\.peak is -2; give a number >= 0",
    ),
    (
        {"from": 0, "to": 1, "rule": "three_part", "peak": 1, "down": "steep"},
        r"loss\.x\.down is 'steep'; give one of 'linear', 'exponential', 'cosine'",
    ),
    (
        {"from": 0, "to": 0, "rule": "three_part", "warmup": 2},
        r"loss\.x is \{.*\}, which does not say 'peak'; a schedule is .*, peak: a numb",
    ),
    (
        {"rule": "three_part", "from": 1, "peak": 1, "to": 1, "steps": 9}
        | {"decay": 6, "warmup": 4},
        r"loss\.x: the rule three_part warms up for 4 steps and falls for 6, of 9",
    ),
]


@pytest.mark.parametrize(("setting", "message"), WRONG, ids=lambda x: str(x)[:30])
def test_what_is_no_schedule_is_refused_by_place_value_and_what_is_valid(
    setting, message
):
    with pytest.raises(InputError, match=message):
        checked(ScheduledNotNegative, setting, "loss.x")


def test_both_ends_keep_the_range_of_the_number():
    with pytest.raises(InputError, match=r"x\[1\]\.from is 0; give a number > 0"):
        checked(list[ScheduledPositive], [1, {"from": 0, "to": 2}], "x")
    with pytest.raises(
        InputError, match=r"x\.mine\.to is 1; give a number in \[0, 1\)"
    ):
        checked(dict[str, ScheduledShareBelowOne], {"mine": {"from": 0, "to": 1}}, "x")
    # a rate of 0 trains nothing, but one may begin or end there
    assert checked(ScheduledRate, {"from": 0, "to": 1e-3}, "x")["from"] == 0.0
    with pytest.raises(InputError, match=r"x is 0; give a number in \(0, 1e\+30\]"):
        checked(ScheduledRate, 0, "x")


def test_a_strangers_rule_has_options_that_only_it_knows():
    setting = {"from": 1, "to": 0, "rule": "mine", "bumps": 3}
    read = schedule_of(checked(ScheduledPositive | None, None, "x") or setting, "x")
    assert read.options == {"bumps": 3}


def test_a_weight_is_on_where_it_is_not_always_nothing():
    assert is_on(0.1) and not is_on(0)
    assert is_on({"from": 0, "to": 1}) and is_on({"from": 1, "to": 0})
    assert is_on({"from": 0, "to": 0, "rule": "three_part", "peak": 1})
    assert not is_on({"from": 0, "to": 0, "steps": 5})


def test_words_say_that_a_schedule_is_allowed():
    words = "a number > 0 or a schedule {from, to, steps, rule}"
    assert in_words(ScheduledPositive) == words
    assert in_words(dict[str, ScheduledPositive]).endswith(f"each to {words}")
    assert in_short(0.5) == "0.5"
    assert in_short({"from": 1, "to": 0, "rule": "cosine"}) == "1 → 0 (cosine)"
