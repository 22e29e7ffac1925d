import pytest
import torch

from fuse.routers.router import LearnableRouter
from fuse.routers.similarity import SimilarityRouter
from fuse.weigher import FixedWeigher, Weigher, per_token, prior, share

MASK = torch.tensor([[True, True, True, False]])
EVERY = torch.ones(1, 4, 2, dtype=torch.bool)
HIDDEN = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [9.0, 9.0]]])


def test_shares_are_divided_among_the_teachers_that_cover_a_token():
    weights = torch.tensor([0.5, 0.3, 0.2]).expand(1, 4, 3)
    available = torch.tensor(
        [[[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]]], dtype=torch.bool
    )
    expected = torch.tensor(
        [[[0.5, 0.3, 0.2], [5 / 7, 0, 2 / 7], [0, 1, 0], [0, 0, 0]]]
    )
    torch.testing.assert_close(share(weights, available), expected)


def test_a_token_left_to_a_teacher_without_weight_gets_zero_and_no_nan():
    weights = torch.tensor([1.0, 0.0]).expand(1, 1, 2).clone().requires_grad_()
    out = share(weights, torch.tensor([[[False, True]]]))
    out.sum().backward()
    assert out.tolist() == [[[0, 0]]]
    assert bool(weights.grad.isfinite().all())


def test_fixed_weights_of_any_scale_sum_to_one():
    weigher = FixedWeigher([3, 1])
    out = weigher(HIDDEN, MASK, EVERY)
    torch.testing.assert_close(out, torch.tensor([0.75, 0.25]).expand(1, 4, 2))
    assert not list(weigher.parameters())


class Nearest(SimilarityRouter):
    """With prototypes that are given."""

    def __init__(self, prototypes, centre=None, **options):
        super().__init__(prototypes.shape[-1], len(prototypes), **options)
        self.prototypes = prototypes
        if centre is not None:
            self.centre = centre


def test_similar_prototypes_draw_weight_token_by_token():
    weigher = Weigher(Nearest(torch.eye(2), temperature=0.5))
    out = weigher(HIDDEN, MASK, EVERY)
    sure = torch.tensor([1.0, 0.0]).div(0.5).softmax(0)  # cosines 1 and 0
    torch.testing.assert_close(out[0, 0], sure)
    torch.testing.assert_close(out[0, 1], sure.flip(0))
    torch.testing.assert_close(out[0, 2], torch.tensor([0.5, 0.5]))


def test_a_samples_weights_are_those_of_its_mean_over_real_tokens():
    weigher = Weigher(Nearest(torch.eye(2)), level="sample")
    out = weigher(HIDDEN, MASK, EVERY)
    mean = torch.tensor([3.0, 4.0]) / 5  # of (2, 0), (0, 3), (1, 1): (1, 4/3)
    torch.testing.assert_close(out, mean.softmax(0).expand(1, 4, 2))


def test_the_weights_of_fixed_shares_are_known_before_a_text_and_no_others():
    fixed, near = FixedWeigher([3, 1]), Weigher(Nearest(torch.eye(2)))
    torch.testing.assert_close(
        prior(fixed, EVERY), torch.tensor([0.75, 0.25]).expand(1, 4, 2)
    )
    torch.testing.assert_close(prior(near, EVERY), torch.full((1, 4, 2), 0.5))
    gone = EVERY.clone()
    gone[..., 0] = False
    assert prior(fixed, gone)[..., 1].eq(1).all()


@pytest.mark.parametrize("level", ["token", "sample"])
def test_a_trained_router_gets_the_gradient_of_its_weights(level):
    torch.manual_seed(0)
    router = LearnableRouter(2, 2)
    weigher = Weigher(router, level)
    out = weigher(HIDDEN, MASK, EVERY)
    torch.testing.assert_close(out, torch.full((1, 4, 2), 0.5))  # uniform at first
    (out[..., 0] * torch.arange(4)).sum().backward()
    assert float(router.score.bias.grad.abs().sum()) > 0
    gone = EVERY.clone()
    gone[..., 0] = False
    assert weigher(HIDDEN, MASK, gone)[..., 1].eq(1).all()


def test_sample_weights_are_given_to_every_token():
    weights = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    out = per_token(weights, torch.ones(2, 3, dtype=torch.bool))
    assert out.shape == (2, 3, 2) and torch.equal(out[:, 1], weights)
    full = torch.rand(2, 3, 2)
    assert per_token(full, torch.ones(2, 3)) is full


@pytest.mark.parametrize("temperature", [0.1, 3.0, 50.0])
def test_a_teacher_without_weight_has_none_at_any_temperature(temperature):
    weigher = FixedWeigher([3, 1, 0])
    weigher.temperature = temperature
    every = torch.ones(1, 4, 3, dtype=torch.bool)
    powers = torch.tensor([0.75, 0.25]).pow(1 / temperature)
    expected = torch.cat([powers / powers.sum(), torch.zeros(1)])
    out = weigher(HIDDEN, MASK, every)
    torch.testing.assert_close(out, expected.expand(1, 4, 3))
    assert not bool(out[..., 2].any())
