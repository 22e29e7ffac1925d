"""Prototypes of each teacher's home texts, and the weights they draw."""

import pytest
import torch

from align.errors import InputError
from fuse.routers.similarity import RoutingSample, SimilarityRouter, home_texts

HIDDEN = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])


def near(prototypes, centre=None, **options):
    router = SimilarityRouter(prototypes.shape[-1], len(prototypes), **options)
    router.prototypes = prototypes
    if centre is not None:
        router.centre = centre
    return router


def test_the_centre_is_taken_off_the_query():
    centre = torch.tensor([100.0, 100.0])
    plain = near(torch.eye(2))(HIDDEN)
    moved = near(torch.eye(2), centre)(HIDDEN + centre)
    torch.testing.assert_close(moved, plain)
    blind = near(torch.eye(2))(HIDDEN + centre)
    assert (blind[0] - 0.5).abs().max() < 0.01  # what the centre is for


def test_cluster_prototypes_are_taken_by_the_best_cluster():
    clusters = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]])
    torch.testing.assert_close(near(clusters)(HIDDEN), near(torch.eye(2))(HIDDEN))


def test_prototypes_travel_with_the_checkpoint_and_never_learn():
    router = near(torch.eye(2, requires_grad=True).detach(), torch.ones(2))
    assert set(router.state_dict()) == {"prototypes", "centre"}
    assert not list(router.parameters())


def test_a_home_is_the_third_that_a_teacher_reads_best_beside_the_others():
    bits = torch.tensor([[1.0, 2.0], [2.0, 2.0], [3.0, 1.0]])
    assert [home.tolist() for home in home_texts(bits)] == [[0], [2]]
    bits[:, 1] = torch.nan  # no loss of its own: at home everywhere
    assert [home.tolist() for home in home_texts(bits)] == [[0, 1, 2]] * 2


def test_a_prototype_is_the_mean_of_the_home_around_the_mean_of_all():
    bits = torch.tensor([[1.0, 2.0], [2.0, 2.0], [3.0, 1.0]])
    router = SimilarityRouter(2, 2)
    router.fit(RoutingSample(hidden=HIDDEN, bits=bits))
    centre = torch.tensor([1.0, 4 / 3])
    torch.testing.assert_close(router.centre, centre)
    torch.testing.assert_close(
        router.prototypes, torch.stack([HIDDEN[0] - centre, HIDDEN[2] - centre])
    )


def test_before_a_sample_all_weights_are_equal_and_ranges_are_checked():
    assert SimilarityRouter(2, 4)(HIDDEN).eq(0.25).all()
    with pytest.raises(InputError, match="temperature is 0; give a number > 0"):
        SimilarityRouter(2, 4, temperature=0)
