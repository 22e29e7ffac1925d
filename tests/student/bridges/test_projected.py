import pytest
import torch

from student.bridges.projected import LayerwiseLinear, Projected
from student.objective import Comparison


@pytest.fixture
def pair():
    """The same comparison, by inner products and by the projected tensors."""
    torch.manual_seed(0)
    maps = LayerwiseLinear(2, 4, 12), LayerwiseLinear(2, 4, 6)
    for parameter in [p for one in maps for p in one.parameters()]:
        torch.nn.init.normal_(parameter)
    z = torch.randn(2, 3, 5, 4, requires_grad=True)
    targets = torch.randn(2, 3, 5, 12), torch.randn(2, 3, 5, 6)
    targets[0][0, 1, 2] = 0  # where nothing was aligned
    weight = torch.rand(3, 5)
    lazy = Projected("a", (z, z), maps, targets, weight)
    plain = Comparison("a", maps[0](z), maps[1](z), *targets, weight)
    return lazy, plain, [z, *maps[0].parameters(), *maps[1].parameters()]


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("measure", ["distance", "cosine"])
def test_inner_products_give_the_value_and_gradient_of_the_projected_tensors(
    pair, side, measure
):
    lazy, plain, learned = pair
    found, expected = (getattr(one, measure)(side) for one in (lazy, plain))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    gradients = [
        torch.autograd.grad((x * lazy.weight).sum(), learned, materialize_grads=True)
        for x in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_who_reads_the_prediction_gets_it(pair):
    lazy, plain, _ = pair
    torch.testing.assert_close(lazy.pred_k, plain.pred_k)
    torch.testing.assert_close(lazy.pred_v, plain.pred_v)


def test_a_prediction_of_length_zero_has_a_finite_gradient():
    maps = LayerwiseLinear(1, 4, 6), LayerwiseLinear(1, 4, 6)
    z, target = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 2, 6)
    lazy = Projected("a", (z, z), maps, (target, target), torch.ones(1, 2))
    lazy.cosine("k").sum().backward()
    assert maps[0].weight.grad.isfinite().all()
