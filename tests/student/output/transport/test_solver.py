import math
import sys

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from student.output.transport.solver import TransportSettings, solve, transport_cost

pytestmark = pytest.mark.edges

EXACT = TransportSettings("exact")
TIGHT = TransportSettings("sinkhorn", epsilon=0.1, iterations=20_000, tolerance=1e-11)
BOTH = pytest.mark.parametrize("settings", [EXACT, TIGHT], ids=["exact", "sinkhorn"])


def problems(count, n, m, seed=0):
    torch.manual_seed(seed)
    a = torch.randn(count, n, dtype=torch.float64).softmax(-1)
    b = torch.randn(count, m, dtype=torch.float64).softmax(-1)
    return a, b, torch.rand(count, n, m, dtype=torch.float64)


def test_the_exact_solver_equals_the_linear_programme_of_pot():
    a, b, cost = problems(5, 6, 4)
    expected = [ot.emd2(*(x[p].numpy() for x in (a, b, cost))) for p in range(5)]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(transport_cost(a, b, cost, EXACT), expected)


def test_sinkhorn_equals_pot_s_with_the_entropy_counted():
    a, b, cost = problems(3, 6, 4)
    found = solve(a, b, cost, TIGHT, with_plan=True)
    for p in range(3):
        x, y, c = (v[p].numpy() for v in (a, b, cost))
        plan = ot.sinkhorn(
            x, y, c, 0.1, method="sinkhorn_log", numItermax=20_000, stopThr=1e-13
        )
        value = (plan * c).sum() + 0.1 * (plan * np.log(plan / np.outer(x, y))).sum()
        assert found.cost[p].item() == pytest.approx(value, abs=1e-9)
        np.testing.assert_allclose(found.plan[p], plan, atol=1e-9)


@BOTH
def test_gradients_are_those_of_finite_differences(settings):
    torch.manual_seed(1)
    z, w = (torch.randn(3, k, dtype=torch.float64).requires_grad_() for k in (5, 4))
    cost = torch.rand(3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z, w, c: transport_cost(z.softmax(-1), w.softmax(-1), c, settings),
        (z, w, cost),
        atol=1e-5,
    )


def test_sinkhorn_tends_to_the_exact_cost():
    a, b, cost = problems(4, 8, 8)
    exact = transport_cost(a, b, cost, EXACT)
    gaps = [
        (
            transport_cost(a, b, cost, TransportSettings("sinkhorn", e, 20_000, 1e-9))
            - exact
        )
        for e in (0.1, 0.01, 0.001)
    ]
    sizes = [gap.abs().max() for gap in gaps]
    assert sizes[0] > sizes[1] > sizes[2] and sizes[2] < 0.005
    assert all((gap > -1e-9).all() for gap in gaps)  # the entropy never lowers it


@BOTH
def test_permuting_either_side_changes_nothing(settings):
    a, b, cost = problems(2, 6, 5)
    i, j = torch.randperm(6), torch.randperm(5)
    permuted = transport_cost(a[:, i], b[:, j], cost[:, i][:, :, j], settings)
    torch.testing.assert_close(permuted, transport_cost(a, b, cost, settings))


@BOTH
def test_a_constant_added_to_the_cost_is_added_to_the_value(settings):
    a, b, cost = problems(2, 6, 5)
    shifted = transport_cost(a, b, cost + 3, settings)
    torch.testing.assert_close(shifted, transport_cost(a, b, cost, settings) + 3)


@BOTH
def test_tokens_without_mass_change_nothing(settings):
    a, b, cost = problems(2, 6, 5)
    a = torch.cat([a, a.new_zeros(2, 2)], 1)
    b = torch.cat([b, b.new_zeros(2, 1)], 1)
    wide = torch.cat([cost, torch.full((2, 2, 5), 9.0).double()], 1)
    wide = torch.cat([wide, torch.full((2, 8, 1), 9.0).double()], 2)
    found = solve(a, b, wide, settings, with_plan=True)
    alone = transport_cost(a[:, :6], b[:, :5], cost, settings)
    torch.testing.assert_close(found.cost, alone)
    assert found.source.isfinite().all() and not found.plan[:, 6:].any()


@limits(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 10_000))
def test_plans_have_the_marginals_and_the_cost_is_between_its_bounds(n, m, seed):
    a, b, cost = problems(2, n, m, seed)
    found = solve(a, b, cost, EXACT, with_plan=True)
    torch.testing.assert_close(found.plan.sum(2), a)
    torch.testing.assert_close(found.plan.sum(1), b)
    independent = (a[:, :, None] * b[:, None] * cost).sum((1, 2))
    assert (found.cost <= independent + 1e-12).all()
    dual = (a * found.source).sum(1) + (b * found.target).sum(1)
    torch.testing.assert_close(dual, found.cost)
    slack = cost - found.source[:, :, None] - found.target[:, None]
    assert slack.min() > -1e-9  # both together prove the optimum


@BOTH
def test_a_number_that_is_not_finite_gives_nan_in_its_row_alone(settings):
    a, b, cost = problems(3, 4, 4)
    broken = cost.clone()
    broken[1, 2, 3] = math.nan
    got = transport_cost(a, b, broken, settings)
    assert got[1].isnan()
    torch.testing.assert_close(got[::2], transport_cost(a, b, cost, settings)[::2])


def test_blocks_change_nothing(monkeypatch):
    a, b, cost = problems(7, 5, 4)
    whole = transport_cost(a, b, cost, TIGHT)
    monkeypatch.setattr("student.output.transport.solver._ENTRIES", 40)
    torch.testing.assert_close(transport_cost(a, b, cost, TIGHT), whole)


def test_half_precision_is_solved_in_single():
    a, b, cost = (x.bfloat16() for x in problems(2, 5, 4))
    assert transport_cost(a, b, cost, EXACT).dtype == torch.float32


@BOTH
def test_no_problem_has_no_cost(settings):
    got = transport_cost(
        torch.zeros(0, 3), torch.zeros(0, 2), torch.zeros(0, 3, 2), settings
    )
    assert got.shape == (0,)


def test_auto_is_exact_on_a_cpu_and_sinkhorn_elsewhere():
    auto = TransportSettings()
    assert auto.solver_on(torch.device("cpu")) == "exact"
    assert auto.solver_on(torch.device("cuda")) == "sinkhorn"


def test_without_pot_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot.lp.emd_wrap", None)
    with pytest.raises(ImportError, match=r"pip install 'mtkd\[ot\]'"):
        transport_cost(*problems(1, 2, 2), EXACT)


def test_a_plan_that_is_not_proved_the_best_is_not_taken(monkeypatch):
    monkeypatch.setattr("student.output.transport.solver._PIVOTS", 1)
    with pytest.raises(RuntimeError, match=r"problem 0 of 9 x 8 without an optimum"):
        transport_cost(*problems(1, 9, 8), EXACT)


def test_costs_of_very_unlike_sizes_stay_exact():
    a, b, cost = problems(3, 9, 8)
    cost = cost * torch.tensor([1e-6, 1, 1e4], dtype=torch.float64)[:, None, None]
    cost[:, :, 0] *= 1e3  # far beyond what the guess at the potentials can tell apart
    expected = [ot.emd2(*(x[p].numpy() for x in (a, b, cost))) for p in range(3)]
    found = solve(a, b, cost, EXACT)
    np.testing.assert_allclose(found.cost, expected, rtol=1e-12)
    slack = cost - found.source[:, :, None] - found.target[:, None]
    assert (slack.amin((1, 2)) > -1e-11 * cost.amax((1, 2))).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"solver": "lp"}, "solver is 'lp'; give auto, exact, sinkhorn"),
        ({"epsilon": 0}, "epsilon must be > 0"),
        ({"iterations": 0}, "iterations must be >= 1"),
        ({"tolerance": -1}, "tolerance must be >= 0"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        TransportSettings(**wrong)


def test_shapes_that_do_not_belong_together_are_named():
    with pytest.raises(ValueError, match=r"cost \(1, 2, 2\) are not of one problem"):
        transport_cost(torch.ones(1, 2), torch.ones(1, 3), torch.ones(1, 2, 2))
