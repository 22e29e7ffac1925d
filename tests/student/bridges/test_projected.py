from dataclasses import replace

import pytest
import torch

from align.time_align import Alignment
from student.bridges.features import Features, LayerMixer
from student.bridges.projected import LayerwiseLinear, Projected, ProjectedPair
from student.objective import Comparison


def alignment():
    """Two texts, T_s = 4, T_t = 3; a token alone, two that share one, one uncovered."""
    return Alignment(
        rows=torch.tensor([0, 1, 1, 3, 4, 5, 6, 6, 6, 7]),
        cols=torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 5, 5]),
        weights=torch.tensor([1, 0.25, 0.75, 1, 1, 1, 0.2, 0.3, 0.5, 1]),
        shape=(2, 4, 3),
    )


def features(layers, width):
    """Random features of a teacher's tokens, and what they are on the student's."""
    x, pairs = torch.randn(layers, 2, 3, width), alignment()
    carry = LayerMixer(pairs)
    kept = tuple(carry(x.flatten(1, 2), [(layer, 1.0)]) for layer in range(layers))
    return Features(kept, carry.tokens, (2, 4)), pairs.dense() @ x


def meetings(z, maps, targets):
    return (
        ProjectedPair(z, [one], [it]) for one, it in zip(maps, targets, strict=True)
    )


@pytest.fixture
def pair():
    """The same comparison, by inner products and by the projected tensors."""
    torch.manual_seed(0)
    maps = LayerwiseLinear(2, 4, 12), LayerwiseLinear(2, 4, 6)
    for parameter in [p for one in maps for p in one.parameters()]:
        torch.nn.init.normal_(parameter)
    z = torch.randn(2, 2, 4, 4, requires_grad=True)
    targets, aligned = zip(features(2, 12), features(2, 6), strict=True)
    weight = torch.rand(2, 4) * alignment().covered
    lazy = Projected.of("a", 0, *meetings(z, maps, targets), weight)
    plain = Comparison(
        name="a",
        pred_k=maps[0](z),
        pred_v=maps[1](z),
        target_k=aligned[0],
        target_v=aligned[1],
        weight=weight,
    )
    return lazy, plain, [z, *maps[0].parameters(), *maps[1].parameters()]


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("measure", ["distance", "cosine"])
def test_inner_products_give_the_value_and_gradient_of_the_projected_tensors(
    pair, side, measure
):
    lazy, plain, learned = pair
    found, expected = (getattr(one, measure)(side) for one in (lazy, plain))
    covered = alignment().covered
    torch.testing.assert_close(
        found * covered, expected * covered, rtol=1e-5, atol=1e-5
    )
    assert not found[:, ~covered].any()
    gradients = [
        torch.autograd.grad((x * lazy.weight).sum(), learned, materialize_grads=True)
        for x in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_both_measures_at_once_add_their_gradients(pair):
    gradients = [
        torch.autograd.grad(
            ((one.distance("k") + one.cosine("k")) * one.weight).sum(),
            pair[2],
            allow_unused=True,
        )[:3]
        for one in pair[:2]
    ]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["k", "v"])
def test_what_is_replaced_counts_as_in_any_other_comparison(pair, side):
    """Fails when a comparison can be made only as its bridge makes it."""
    covered = alignment().covered
    found, expected = (
        [
            replace(one, weight=one.weight / 2),
            replace(one, **{f"pred_{side}": 3 * getattr(one, f"pred_{side}")}),
            replace(one, **{f"target_{side}": 0 * getattr(one, f"target_{side}")}),
        ]
        for one in pair[:2]
    )
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.weight, other.weight)
        for measure in ("distance", "cosine"):
            values = (getattr(x, measure)(side) * covered for x in (one, other))
            torch.testing.assert_close(*values, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[1].distance(side), pair[0].distance(side))


def test_a_comparison_says_what_it_does_not_have(pair):
    with pytest.raises(AttributeError, match="no attribute 'pred_q'"):
        pair[0].pred_q  # noqa: B018


def test_who_reads_the_tensors_gets_them(pair):
    lazy, plain, _ = pair
    for name in ("pred_k", "pred_v", "target_k", "target_v"):
        torch.testing.assert_close(getattr(lazy, name), getattr(plain, name))


def test_a_prediction_of_length_zero_has_a_finite_gradient():
    maps = LayerwiseLinear(1, 4, 6), LayerwiseLinear(1, 4, 6)
    z, (target, _) = torch.randn(1, 2, 4, 4), features(1, 6)
    meeting = meetings(z, maps, (target, target))
    lazy = Projected.of("a", 0, *meeting, torch.ones(2, 4))
    lazy.cosine("k").sum().backward()
    assert maps[0].weight.grad.isfinite().all()


def test_under_autocast_only_the_wide_products_lose_precision(pair):
    lazy, plain, learned = pair
    with torch.autocast("cpu", torch.bfloat16):
        found = (lazy.distance("k") * lazy.weight).sum()
    assert found.dtype == torch.float32
    expected = (plain.distance("k") * lazy.weight).sum()
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)
    exact = torch.autograd.grad(expected, learned[:3])
    near = torch.autograd.grad(found, learned[:3])
    torch.testing.assert_close(near, exact, rtol=3e-2, atol=3e-2)


def test_teachers_add_up_on_the_student_that_they_share():
    """Fails where one teacher's tokens or gradient take another's place."""
    torch.manual_seed(0)
    z = torch.randn(2, 2, 4, 4, requires_grad=True)
    maps = LayerwiseLinear(2, 4, 12), LayerwiseLinear(2, 4, 6)
    for parameter in [p for one in maps for p in one.parameters()]:
        torch.nn.init.normal_(parameter)
    targets, aligned = zip(features(2, 12), features(2, 6), strict=True)
    found = torch.stack(
        [x.distance() for x in ProjectedPair(z, maps, targets).products]
    )
    expected = torch.stack(
        [(m(z) - x).square().mean(3) for m, x in zip(maps, aligned, strict=True)]
    )
    weight = torch.rand(2, 1, 2, 4) * alignment().covered
    learned = [z, *maps[0].parameters(), *maps[1].parameters()]
    gradients = [
        torch.autograd.grad((x * weight).sum(), learned) for x in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
