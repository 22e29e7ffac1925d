from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from align.time_align import Alignment
from student.bridges.features import Features, LayerMixer
from student.bridges.projected import LayerwiseLinear, Projected, project
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


def projected(z, maps, targets, weight):
    """The comparison of keys and values with one teacher's."""
    (k,), (v,) = (project(z, [m], [x]) for m, x in zip(maps, targets, strict=True))
    return Projected(name="a", k=k, v=v, weight=weight)


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
    narrow = projected(z, maps, targets, weight)
    plain = Comparison(
        name="a",
        pred_k=maps[0](z),
        pred_v=maps[1](z),
        target_k=aligned[0],
        target_v=aligned[1],
        weight=weight,
    )
    return narrow, plain, [z, *maps[0].parameters(), *maps[1].parameters()]


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("measure", ["distance", "cosine"])
def test_inner_products_give_the_value_and_gradient_of_the_projected_tensors(
    pair, side, measure
):
    narrow, plain, learned = pair
    found, expected = (getattr(one, measure)(side) for one in (narrow, plain))
    covered = alignment().covered
    torch.testing.assert_close(
        found * covered, expected * covered, rtol=1e-5, atol=1e-5
    )
    assert not found[:, ~covered].any()
    gradients = [
        torch.autograd.grad((x * narrow.weight).sum(), learned, materialize_grads=True)
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
def test_a_comparison_takes_another_weight_and_nothing_else_changes(pair, side):
    """Fails when a comparison can be made only as its bridge makes it."""
    for one in pair[:2]:
        half = replace(one, weight=one.weight / 2)
        assert torch.equal(half.weight, one.weight / 2) and half.name == one.name
        for measure in ("distance", "cosine"):
            assert torch.equal(
                getattr(half, measure)(side), getattr(one, measure)(side)
            )


def test_it_holds_tensors_alone_and_nothing_that_is_worked_out_later(pair):
    """Fails with a map, a function or a cache inside."""
    kinds, waiting = set(), [pair[0]]
    while waiting:
        value = waiting.pop()
        parts = fields(value) if is_dataclass(value) else ()
        waiting += [getattr(value, part.name) for part in parts]
        waiting += value if isinstance(value, tuple) else ()
        kinds |= set() if parts else {type(value)}
        assert not hasattr(value, "__dict__") or isinstance(value, torch.Tensor)
    assert kinds == {str, int, tuple, torch.Tensor}


def test_who_reads_the_tensors_gets_them(pair):
    narrow, plain, _ = pair
    for name in ("pred_k", "pred_v", "target_k", "target_v"):
        torch.testing.assert_close(getattr(narrow, name), getattr(plain, name))


def test_a_prediction_of_length_zero_has_a_finite_gradient():
    maps = LayerwiseLinear(1, 4, 6), LayerwiseLinear(1, 4, 6)
    z, (target, _) = torch.randn(1, 2, 4, 4), features(1, 6)
    narrow = projected(z, maps, (target, target), torch.ones(2, 4))
    narrow.cosine("k").sum().backward()
    assert maps[0].weight.grad.isfinite().all()


def test_under_autocast_only_the_wide_products_lose_precision(pair):
    narrow, plain, learned = pair
    again = LayerwiseLinear(2, 4, 12)
    again.weight, again.bias = learned[1:3]
    with torch.autocast("cpu", torch.bfloat16):
        (side,) = project(narrow.k.z, [again], [narrow.k.target])
        found = (side.products.distance() * narrow.weight).sum()
    assert found.dtype == torch.float32
    expected = (plain.distance("k") * narrow.weight).sum()
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
        [side.products.distance() for side in project(z, maps, targets)]
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
