"""Terms of one kind with options of their own, against values worked out by hand."""

from dataclasses import replace
from typing import Any, get_type_hints

import pytest
import torch
from torch.nn import functional as F

from plugins.contracts.step import step_context, step_places
from plugins.options import options_of
from student.config import LossConfig
from student.objective import count_of
from student.output_config import OutputConfig
from student.terms.key_value import BUILT_IN, OBJECTIVES
from tests.student.terms.test_next_token import PREDICTS, context, log_probs, output

OPTIONED = [name for name, term in BUILT_IN.items() if term.options is not None]


def test_two_terms_of_one_kind_take_each_its_own_temperature():
    teacher = output(1, width=4)
    ctx = context(OutputConfig(temperature=3.0), teacher)
    found = [OBJECTIVES["kd"](**o)(ctx) for o in ({"temperature": 4.0}, {})]
    expected = []
    for temperature in (4.0, 3.0):
        p, q = (log_probs(x, temperature) for x in (teacher, ctx.outputs.student))
        each = F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
        expected.append(temperature**2 * each[PREDICTS].mean())
    torch.testing.assert_close(found, expected)
    assert abs(found[0] - found[1]) > 0.01


def test_a_term_learns_from_its_own_teachers_and_counts_their_places():
    two = [output(1), output(2)]
    both, second = context(OutputConfig(), *two), context(OutputConfig(), two[1])
    term = OBJECTIVES["kd"](teachers=["t1"])
    torch.testing.assert_close(term(both), OBJECTIVES["kd"]()(second))
    places = step_places(step_context()[0])
    names = [reading.name for reading in places.readings]
    counts = [
        count_of(OBJECTIVES["kd"](teachers=n))(places)[0]
        for n in (names[:1], names[1:])
    ]
    assert sum(counts) == pytest.approx(count_of(OBJECTIVES["kd"]())(places)[0])
    assert counts[0] > counts[1] > 0


def test_a_rule_of_ones_own_moves_ones_own_temperature():
    options = {
        "temperature": 4.0,
        "temperature_end": 1.0,
        "temperature_rule": "linear",
        "temperature_steps": 10,
    }
    ctx = context(OutputConfig(), output(1))
    ctx = replace(ctx, outputs=replace(ctx.outputs, step=5))
    found = OBJECTIVES["projected_kl"](**options)(ctx)
    halfway = OBJECTIVES["projected_kl"](temperature=2.5)(ctx)
    torch.testing.assert_close(found, halfway)


@pytest.mark.parametrize("kind", ["attention_kl", "relation_k", "relation_v"])
def test_features_have_a_temperature_a_term(kind):
    ctx = step_context()[0]
    two = replace(ctx, temperature=torch.full((2,), 2.0))
    found = OBJECTIVES[kind](temperatures=[2.0])(ctx)
    torch.testing.assert_close(found, OBJECTIVES[kind]()(two))
    plain = OBJECTIVES[kind](temperatures=[1.0])(two)
    torch.testing.assert_close(plain, OBJECTIVES[kind]()(ctx))
    assert not torch.isclose(found, plain)


@pytest.mark.parametrize("kind", OPTIONED)
def test_an_option_is_the_setting_of_its_name_or_null(kind):
    section = {"loss": LossConfig, "output": OutputConfig}
    of_phase = get_type_hints(
        section[BUILT_IN[kind].short.partition(".")[0]], include_extras=True
    )
    hints = get_type_hints(options_of(OBJECTIVES[kind]), include_extras=True)
    assert hints and not set(hints) & {"use", "weight"}
    for name, hint in hints.items():
        wanted = list[str] if name == "teachers" else of_phase[name]
        assert hint == wanted | None, name


@pytest.mark.parametrize("kind", BUILT_IN)
def test_without_options_a_term_is_the_functions_value(kind):
    ctx: Any = step_context()[0]
    term = OBJECTIVES[kind]()
    assert torch.equal(term(ctx), BUILT_IN[kind](ctx))
    assert (term.needs, term.fades) == (BUILT_IN[kind].needs, BUILT_IN[kind].fades)
