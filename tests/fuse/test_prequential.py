import math

import pytest
import torch

from fuse.prequential import prequential_weights, read_scores


def by_hand(heard, decay):
    """Of one text (K, M), as the formula is written down."""
    return [
        [
            sum(decay ** (k - j) * float(heard[j, m]) for j in range(k))
            for m in range(heard.shape[1])
        ]
        for k in range(len(heard) + 1)
    ]


def test_scores_by_hand():
    heard = torch.tensor([[-1.0, -3.0], [-2.0, -0.5]])
    expected = [[0, 0], [-0.5, -1.5], [-0.25 - 1, -0.75 - 0.25]]
    torch.testing.assert_close(read_scores(heard, 0.5), torch.tensor(expected))
    assert read_scores(heard, 1)[-1].tolist() == [-3, -3.5]  # nothing is forgotten
    assert read_scores(heard, 0).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.8, 1.0])
def test_scores_are_those_of_the_formula(decay):
    heard = -torch.rand(2, 7, 3, generator=torch.Generator().manual_seed(0)).double()
    scores = read_scores(heard, decay)
    for text, scored in zip(heard, scores, strict=True):
        expected = torch.tensor(by_hand(text, decay), dtype=torch.float64)
        torch.testing.assert_close(scored, expected)


def test_no_score_knows_its_own_stretch_or_a_later_one():
    heard = -torch.rand(6, 2, generator=torch.Generator().manual_seed(1))
    before = read_scores(heard, 0.9)
    for place in range(6):
        other = heard.clone()
        other[place:] -= 5
        after = read_scores(other, 0.9)
        assert torch.equal(before[: place + 1], after[: place + 1])
        assert not torch.equal(before[place + 1], after[place + 1])


def test_a_teacher_that_foretells_nothing_scores_as_the_others_do_on_average():
    heard = torch.tensor([[-1.0, -3.0, math.nan]])
    assert read_scores(heard, 1)[1].tolist() == [-1, -3, -2]
    assert read_scores(heard[:, 2:], 1).tolist() == [[0], [0]]


def test_without_decay_weights_are_the_posterior():
    heard = torch.tensor([[0.5, 0.1], [0.2, 0.6]]).log()
    weights = prequential_weights(read_scores(heard, 1), 1)
    expected = [[0.5, 0.5], [5 / 6, 1 / 6], [0.1 / 0.16, 0.06 / 0.16]]
    torch.testing.assert_close(weights, torch.tensor(expected))
