import math

import numpy as np
import ot
import pytest
import torch
from scipy.special import softmax

from align.views import LinearHead
from student.output.transport.geometry import logit_geometry
from student.output.transport.sequence import sequence_transport
from student.output.transport.solver import TransportSettings

EXACT = TransportSettings("exact")
TIGHT = TransportSettings("sinkhorn", epsilon=1.0, iterations=500, tolerance=1e-10)
BOTH = pytest.mark.parametrize("settings", [EXACT, TIGHT], ids=["exact", "sinkhorn"])
KINDS = pytest.mark.parametrize("kind", ["cosine", "squared", "softmax"])


def vectors(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64)


def cost(x, y, mask_x=None, mask_y=None, **options):
    mask_x = torch.ones(x.shape[:2], dtype=torch.bool) if mask_x is None else mask_x
    mask_y = torch.ones(y.shape[:2], dtype=torch.bool) if mask_y is None else mask_y
    return sequence_transport(x, y, mask_x, mask_y, **options)


def naive_costs(x, y, kind, temperature=1.0):
    """(N, M) by the formulas, in numpy."""
    if kind == "softmax":
        return 1 - softmax(x @ y.T / temperature / np.sqrt(x.shape[1]), axis=1)
    if kind == "squared":
        return ((x[:, None] - y[None]) ** 2).mean(-1)
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    return 1 - x @ y.T


def even(n):
    return np.full(n, 1 / n)


@KINDS
def test_each_text_is_one_linear_programme_with_even_marginals(kind):
    x, y = vectors(2, 5, 4), vectors(2, 7, 4, seed=1)
    x[0, 4], y[1, 6] = math.nan, math.nan  # padding may hold anything
    mask_x = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]).bool()
    mask_y = torch.tensor([[1] * 7, [1, 1, 1, 0, 0, 0, 0]]).bool()
    got = cost(
        x,
        y,
        mask_x,
        mask_y,
        cost=kind,
        temperature=0.3,
        settings=EXACT,
        reduction="none",
    )
    for b in range(2):
        price = naive_costs(x[b][mask_x[b]].numpy(), y[b][mask_y[b]].numpy(), kind, 0.3)
        n, m = price.shape
        assert got[b].item() == pytest.approx(ot.emd2(even(n), even(m), price))


@KINDS
def test_sinkhorn_equals_pot_s_with_the_entropy_counted(kind):
    x, y = vectors(1, 5, 4), vectors(1, 7, 4, seed=1)
    got = cost(x, y, cost=kind, settings=TIGHT, debiased=False)
    price = naive_costs(x[0].numpy(), y[0].numpy(), kind)
    plan = ot.sinkhorn(
        even(5),
        even(7),
        price,
        1.0,
        method="sinkhorn_log",
        numItermax=5000,
        stopThr=1e-12,
    )
    value = (plan * price).sum() + 1.0 * (plan * np.log(plan * 35)).sum()
    assert got.item() == pytest.approx(value, abs=1e-8)


@BOTH
@KINDS
def test_gradients_are_those_of_finite_differences(kind, settings):
    x, y = vectors(1, 4, 2).requires_grad_(), vectors(1, 4, 2, seed=1)
    mask = torch.tensor([[1, 1, 0, 1]]).bool()
    assert torch.autograd.gradcheck(
        lambda x: cost(x, y, mask, cost=kind, settings=settings),
        x,
        atol=1e-7,
        fast_mode=True,
    )


@BOTH
@pytest.mark.parametrize("kind", ["cosine", "squared"])
def test_the_same_sequence_costs_nothing(kind, settings):
    x = vectors(2, 6, 4).requires_grad_()
    got = cost(x, x.detach(), cost=kind, settings=settings)
    got.backward()
    assert abs(got.item()) < 1e-7
    assert x.grad.abs().max() < 1e-5


@BOTH
def test_the_order_of_tokens_is_no_part_of_it(settings):
    x, y = vectors(1, 6, 4), vectors(1, 5, 4, seed=1)
    base = cost(x, y, settings=settings)
    shuffled = cost(x[:, torch.randperm(6)], y[:, torch.randperm(5)], settings=settings)
    torch.testing.assert_close(shuffled, base)


def test_one_plan_a_block_is_another_problem():
    torch.manual_seed(0)
    y = torch.randn(1, 64, 8)
    x = y.roll(8, 1)  # the same tokens, one block later
    blocks = [cost(x[:, i : i + 8], y[:, i : i + 8]) for i in range(0, 64, 8)]
    assert cost(x, y) < 1e-6 < 0.5 < sum(blocks) / 8


def test_a_text_twice_as_long_costs_the_same_except_by_softmax():
    x, y = vectors(1, 5, 4), vectors(1, 6, 4, seed=1)
    for kind in ("cosine", "squared"):
        once, twice = (
            cost(x, z, cost=kind, settings=EXACT) for z in (y, y.repeat(1, 2, 1))
        )
        torch.testing.assert_close(once, twice)
    once, many = (cost(x, y.repeat(1, r, 1), cost="softmax") for r in (1, 50))
    assert once < 0.9 and many > 0.99


def test_blocks_of_work_change_nothing(monkeypatch):
    x, y = vectors(1, 9, 4).requires_grad_(), vectors(1, 7, 4, seed=1)
    whole = [cost(x, y, settings=s) for s in (EXACT, TIGHT)]
    pulls = [torch.autograd.grad(value, x)[0] for value in whole]
    monkeypatch.setattr("student.output.transport.sequence._BLOCK", 15)
    for settings, value, pull in zip((EXACT, TIGHT), whole, pulls, strict=True):
        again = cost(x, y, settings=settings)
        torch.testing.assert_close(again, value)
        torch.testing.assert_close(torch.autograd.grad(again, x)[0], pull)


def heads():
    own, other = vectors(11, 3, seed=2), vectors(13, 4, seed=3)
    return LinearHead(own.requires_grad_()), LinearHead(other)


@BOTH
@KINDS
def test_hidden_states_in_their_geometry_are_compared_as_centred_logits(kind, settings):
    own, other = heads()  # 11 and 13 rows: two are rounded up
    h, g = vectors(1, 5, 3), vectors(1, 4, 4, seed=1)
    x, y = (h @ own.weight.detach().T, g @ other.weight[:11].T)
    x, y = (z - z.mean(-1, keepdim=True) for z in (x, y))
    options = dict(cost=kind, settings=settings)
    got = cost(h, g, geometry=logit_geometry(own, other), **options)
    torch.testing.assert_close(got, cost(x, y, **options))


def test_the_gradient_reaches_the_students_head_and_no_teacher():
    own, other = heads()
    h, g = vectors(1, 5, 3).requires_grad_(), vectors(1, 4, 4, seed=1).requires_grad_()
    other.weight.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h, w: cost(
            h, g, geometry=logit_geometry(LinearHead(w), other), settings=TIGHT
        ),
        (h, own.weight),
        atol=1e-7,
        fast_mode=True,
    )
    cost(h.detach(), g, geometry=logit_geometry(own, other)).backward()
    assert own.weight.grad.abs().sum() > 0  # by itself as well
    assert g.grad is None and other.weight.grad is None


def test_a_constant_added_to_all_logits_changes_nothing():
    own, other = heads()
    h, g = vectors(1, 5, 3), vectors(1, 4, 4, seed=1)
    moved = LinearHead(own.weight + vectors(3, seed=5))  # h @ it, the same for all
    base = cost(h, g, geometry=logit_geometry(own, other))
    torch.testing.assert_close(cost(h, g, geometry=logit_geometry(moved, other)), base)


def test_one_token_on_either_side():
    x, y = vectors(1, 1, 4), vectors(1, 6, 4, seed=1)
    price = torch.tensor(naive_costs(x[0].numpy(), y[0].numpy(), "cosine"))
    for settings in (EXACT, TransportSettings("sinkhorn")):
        got = cost(x, y, settings=settings, debiased=False)
        torch.testing.assert_close(got, price.mean())


def test_padding_alone_costs_nothing_and_counts_for_no_text():
    x, y = vectors(2, 3, 4).requires_grad_(), vectors(2, 3, 4, seed=1)
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]]).bool()
    got = cost(x, y, mask)
    torch.testing.assert_close(got, cost(x[:1], y[:1]))
    got.backward()
    assert not x.grad[1].any() and x.grad[0].any()
    nothing = cost(x, y, mask & False)
    nothing.backward()
    assert nothing == 0
    assert cost(x[:0], y[:0]) == 0
    total = cost(x, y, reduction="sum")
    torch.testing.assert_close(total, 2 * cost(x, y))


@BOTH
@KINDS
def test_extreme_vectors_stay_finite_in_bfloat16(kind, settings):
    x = torch.tensor([[[1e4, -1e4], [0, 0], [1e-4, 1e4]]]).bfloat16().requires_grad_()
    quick = TransportSettings(settings.solver)
    got = cost(x, x.detach().flip(2), cost=kind, settings=quick)
    got.backward()
    assert got.dtype == torch.float32 and got.isfinite()
    assert x.grad.isfinite().all()


def test_auto_is_exact_where_it_is_small(monkeypatch):
    x, y = vectors(1, 5, 4), vectors(1, 6, 4, seed=1)
    torch.testing.assert_close(cost(x, y), cost(x, y, settings=EXACT))
    monkeypatch.setattr("student.output.transport.sequence._EXACT", 29)
    entropic = cost(x, y, settings=TransportSettings("sinkhorn"))
    torch.testing.assert_close(cost(x, y), entropic)


def test_wrong_arguments_are_named():
    x, y = vectors(1, 5, 4), vectors(1, 6, 3)
    with pytest.raises(ValueError, match="student is 4 wide and teacher 3; project"):
        cost(x, y)
    with pytest.raises(ValueError, match=r"its mask \(1, 2\); give \(1, T, C\)"):
        cost(x, x, torch.ones(1, 2).bool())
    with pytest.raises(ValueError, match=r"between widths \(3, 4\)"):
        cost(x, y, geometry=logit_geometry(*heads()))
    with pytest.raises(ValueError, match="the teacher's head has a bias"):
        logit_geometry(heads()[0], LinearHead(torch.ones(2, 3), torch.ones(2)))
    with pytest.raises(ValueError, match="cost is 'l1'; give cosine, squared, softmax"):
        cost(x, x, cost="l1")
    with pytest.raises(ValueError, match="reduction is 'max'"):
        cost(x, x, reduction="max")
    with pytest.raises(ValueError, match="temperature must be > 0"):
        cost(x, x, temperature=0)


def test_a_text_of_which_one_side_has_no_token_costs_nothing():
    x, y = vectors(2, 4, 3).requires_grad_(), vectors(2, 5, 3, seed=1)
    mask_y = torch.ones(2, 5, dtype=torch.bool)
    mask_y[1] = False
    each = cost(x, y, mask_y=mask_y, reduction="none")
    assert float(each[1]) == 0
    assert float(cost(x, y, mask_y=mask_y)) == float(each[0])
    (slope,) = torch.autograd.grad(each[1], x)
    assert not bool(slope.any())


@pytest.mark.parametrize("headed", [False, True])
def test_costs_are_float32_where_products_are_bfloat16(headed):
    x, y = (vectors(1, 9, 8, seed=seed).float() for seed in (0, 1))
    heads = [LinearHead(vectors(30, 8, seed=seed).float(), None) for seed in (2, 3)]
    expected = cost(x, y, geometry=logit_geometry(*heads) if headed else None)
    with torch.autocast("cpu", torch.bfloat16):
        found = cost(x, y, geometry=logit_geometry(*heads) if headed else None)
    assert torch.equal(found, expected)
