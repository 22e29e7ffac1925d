"""No numeric setting takes what cannot be counted with; the schema is walked."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import pytest

from align.support.field_types import in_words, is_union
from experiments.config.parsing import ConfigError
from experiments.config.schema import hints_of, named_section, section_of
from experiments.config.tree import Config, load_config

TAKES_INFINITY = {"train.max_grad_norm", "gate.tolerance", "data.mix_temperature"}
"""No clipping at all, a gate that never shuts, and sizes that count for nothing."""


def numbers_in(hint: Any) -> Iterator[tuple[str, type]]:
    """Where in a type numbers stand, ``""`` for itself, ``[]`` and ``.name`` inside."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if hint in (int, float):
        yield "", hint
    for arm in get_args(hint) if is_union(hint) else ():
        yield from numbers_in(arm)
    if get_origin(hint) in (list, dict):
        mark = "[]" if get_origin(hint) is list else ".name"
        for inside, number in numbers_in(get_args(hint)[-1]):
            yield mark + inside, number


def numeric_settings(
    cls: Any = Config, prefix: str = ""
) -> Iterator[tuple[str, str, type]]:
    for key, hint in hints_of(cls).items():
        named = named_section(hint)
        section, partial = section_of(hint if named is None else named)
        name = f"{prefix}{key}" if named is None else f"{prefix}{key}.name"
        if section is not None and not partial:
            yield from numeric_settings(section, f"{name}.")
        elif section is None:
            for inside, number in numbers_in(hint):
                yield f"{prefix}{key}", inside, number
                if "schedule" in in_words(hint):
                    yield f"{prefix}{key}", inside + "{from}", number


SETTINGS = sorted(set(numeric_settings()), key=str)


def said(name: str, inside: str, text: str) -> str:
    """The same as an override."""
    if inside.endswith("{from}"):
        inside, text = inside.removesuffix("{from}"), f"{{from: {text}, to: 1}}"
    if inside.endswith("[]"):
        inside, text = inside.removesuffix("[]"), f"[{text}]"
    return f"{name}.name={text}" if inside else f"{name}={text}"


def test_the_walk_meets_every_kind_of_number():
    assert {("run.seed", "", int), ("teachers.name.weight", "", float)} <= set(SETTINGS)
    assert ("fuse.weights", "[]", float) in SETTINGS
    assert ("align.layer_map", ".name[]", int) in SETTINGS
    assert ("loss.lambda_k", "{from}", float) in SETTINGS
    assert len(SETTINGS) > 100


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "1e999", "-1e999"])
def test_what_is_not_finite_is_refused_by_every_setting(text):
    positive = text in (".inf", "1e999")
    tried = [
        (name, inside)
        for name, inside, _ in SETTINGS
        if not (positive and name in TAKES_INFINITY)
    ]
    assert outcomes(tried, text) == {}


@pytest.mark.parametrize(
    "text", ["9223372036854775808", "0x" + "f" * 9000, "-0x1" + "0" * 20]
)
def test_what_64_bits_do_not_hold_is_refused_by_every_setting_that_counts(text):
    tried = [(name, inside) for name, inside, number in SETTINGS if number is int]
    assert len(tried) > 30
    assert outcomes(tried, text) == {}


def outcomes(tried: list[tuple[str, str]], text: str) -> dict[str, str]:
    """Settings that take a value, or refuse it without their name in one line."""
    wrong = {}
    for name, inside in tried:
        item = said(name, inside, text)
        try:
            load_config({}, [item])
        except ConfigError as error:
            if name not in str(error) or "\n" in str(error):
                wrong[item] = str(error)
        else:
            wrong[item] = "accepted"
    return wrong
