import pytest
import torch

from fuse.router import LearnableRouter
from fuse.weigher import FixedWeigher, LearnedWeigher, SimilarityWeigher, share

B, T, C, M = 2, 3, 8, 2
HIDDEN = torch.randn(B, T, C, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[True, True, True], [True, True, False]])
ALL = torch.ones(B, T, M, dtype=torch.bool)


def trained_router():
    torch.manual_seed(0)
    router = LearnableRouter(C, M)
    torch.nn.init.normal_(router.score.weight)
    return router


def test_shares_by_hand():
    weights = torch.tensor([[[0.2, 0.6], [0.5, 0.5], [1.0, 0.0]]])
    available = torch.tensor([[[True, True], [False, True], [False, True]]])
    expected = torch.tensor([[[0.25, 0.75], [0.0, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(share(weights, available), expected)


def test_fixed_shares_are_scaled_and_go_to_who_is_there():
    available = ALL.clone()
    available[0, 1] = torch.tensor([True, False])
    available[1, 2] = False
    weights = FixedWeigher([1, 3])(HIDDEN, MASK, available)
    torch.testing.assert_close(weights[0, 0], torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(weights[0, 1], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(weights[1, 2], torch.tensor([0.0, 0.0]))


def test_similarity_takes_the_common_part_off_first():
    common = torch.full((C,), 100.0)
    prototypes = torch.eye(M, C)
    hidden = common + prototypes[torch.tensor([[0, 1, 1], [1, 0, 0]])]
    blind = SimilarityWeigher(prototypes, 0.05)(hidden, MASK, ALL)
    seeing = SimilarityWeigher(prototypes, 0.05, centre=common)(hidden, MASK, ALL)
    assert blind[0, 0, 0] == pytest.approx(0.5, abs=0.05)
    assert seeing[0, 0, 0] > 0.99 and seeing[0, 1, 1] > 0.99


def test_one_weighting_per_sample_is_every_tokens():
    weigher = LearnedWeigher(trained_router(), level="sample")
    weights = weigher(HIDDEN, MASK, ALL)
    assert weights.shape == (B, T, M)
    torch.testing.assert_close(weights[0, 0], weights[0, 2])
    assert not torch.allclose(weights[0, 0], weights[1, 0])
    changed = HIDDEN.clone()
    changed[1, 2] = 1e3  # padding
    torch.testing.assert_close(weigher(changed, MASK, ALL), weights)


def test_token_weights_see_no_future():
    weigher = LearnedWeigher(trained_router())
    before = weigher(HIDDEN, MASK, ALL)
    changed = HIDDEN.clone()
    changed[:, 2] = 7.0
    after = weigher(changed, MASK, ALL)
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert not torch.allclose(after[:, 2], before[:, 2])


def test_temperature_divides_the_scores_of_a_softmax_router():
    router = trained_router()
    found = LearnedWeigher(router, temperature=0.25)(HIDDEN, MASK, ALL)
    router.temperature = 0.25
    torch.testing.assert_close(found, router(HIDDEN))


def test_the_router_learns_through_its_weigher():
    weigher = LearnedWeigher(trained_router(), temperature=0.5)
    weigher(HIDDEN, MASK, ALL)[..., 0].sum().backward()
    assert weigher.router.score.weight.grad.abs().sum() > 0
    assert not list(FixedWeigher([1, 1]).parameters())
