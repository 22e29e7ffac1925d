import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval

from align.support.field_types import (
    AtLeastOne,
    Count,
    Positive,
    PositiveOrInfinite,
    Share,
    ShareBelowOne,
    check_fields,
    checked,
    in_words,
)


@dataclass(frozen=True, kw_only=True)
class Inside:
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Section:
    steps: Count | None = None
    shares: list[Share] = field(default_factory=list)
    named: dict[str, Positive] = field(default_factory=dict)
    lists: dict[str, list[int]] | None = None
    half: bool | Literal["auto"] = False
    inside: Inside = field(default_factory=Inside)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": -1}, "at.steps is -1; give an integer >= 0 or null"),
        ({"steps": True}, "at.steps is True; give an integer >= 0 or null"),
        ({"steps": "5"}, "at.steps is '5'; give an integer >= 0 or null"),
        ({"shares": [0.5, 1.5]}, "at.shares[1] is 1.5; give a number in [0, 1]"),
        ({"named": {"a": 0}}, "at.named.a is 0; give a number > 0"),
        ({"named": {"a": math.nan}}, "at.named.a is nan; give a number > 0"),
        ({"named": {"a": math.inf}}, "at.named.a is inf; give a number > 0"),
        ({"lists": {"a": [1, "b"]}}, "at.lists.a[1] is 'b'; give an integer"),
        ({"half": 1}, "at.half is 1; give true or false or 'auto'"),
    ],
)
def test_the_first_field_that_does_not_fit_is_named(values, message):
    with pytest.raises(ValueError) as refused:
        check_fields(Section(**values), "at")
    assert str(refused.value) == message


def test_what_fits_passes():
    check_fields(Section(steps=3, shares=[0, 1], named={"a": 1}, half="auto"), "at")
    assert checked(PositiveOrInfinite, math.inf, "x") == math.inf


def test_a_text_stands_for_a_number_only_where_it_may():
    assert checked(Count, "5", "x", from_text=True) == 5
    with pytest.raises(ValueError, match="x is '5'; give an integer"):
        checked(Count, "5", "x")
    assert checked(str, "5", "x", from_text=True) == "5"


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (AtLeastOne, "an integer >= 1"),
        (ShareBelowOne, "a number in [0, 1)"),
        (Annotated[float, Interval(gt=0, le=0.5)], "a number in (0, 0.5]"),
        (PositiveOrInfinite, "a number > 0 or .inf"),
        (Literal["auto"] | list[str], "'auto' or a list, each entry a text"),
        (dict[str, Count], "a mapping from names, each to an integer >= 0"),
        (str | dict[str, Any], "a name, or {use: NAME} with options"),
        (
            dict[str, dict[str, Any]] | None,
            "a mapping from names, each to a mapping of options or null",
        ),
    ],
)
def test_types_are_said_in_words(hint, words):
    assert in_words(hint) == words


@pytest.mark.parametrize(
    ("value", "such"),
    [
        ("sure", "x is 'sure'; give a mapping .* options, such as {sure: {}}"),
        (["sure", "rho"], "such as {sure: {}, rho: {}}"),
        ({"use": "sure"}, "x is {'use': 'sure'}; give .* such as {sure: {}}"),
        (3, "x is 3; give .* such as {NAME: {option: value}}"),
        ({"sure": 50}, r"x\.sure is 50; give a mapping of options$"),
        ({"sure": None}, r"x\.sure is null; give a mapping of options$"),
    ],
)
def test_plugins_by_name_are_shown_as_they_are_written(value, such):
    with pytest.raises(ValueError, match=such):
        checked(dict[str, dict[str, Any]], value, "x")


def test_choices_are_written_as_asked():
    assert in_words(Literal["a", "b"], quote="<{}>".format) == "one of <a>, <b>"


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (float, math.nan, "x is nan; give a finite number"),
        (float | None, -math.inf, "x is -inf; give a number or null"),
        (list[float], [0.5, math.inf], "x[1] is inf; give a finite number"),
        (dict[str, Any], {"a": [math.nan]}, "x.a[0] is nan; give a finite number"),
        (PositiveOrInfinite, math.nan, "x is nan; give a number > 0 or .inf"),
        (Count, 1 << 63, "x is 9223372036854775808; give a number that 64 bits hold"),
        (dict[str, Any], {"a": -(1 << 63) - 1}, "x.a is -9223372036854775809; give"),
        (Count, 16**9000, "x is int with a number of thousands of digits; give"),
        (Count, "n" * 9000, "… (9,002 characters); give an integer >= 0"),
    ],
    ids=range(9),
)
def test_no_number_is_beyond_what_is_counted_with(hint, value, message):
    with pytest.raises(ValueError) as refused:
        checked(hint, value, "x")
    assert message in str(refused.value)
    assert len(str(refused.value)) < 350


def test_a_negative_zero_is_zero():
    assert math.copysign(1, checked(list[Share], [-0.0], "x")[0]) == 1
    assert checked(Count, (1 << 63) - 1, "x") == (1 << 63) - 1
