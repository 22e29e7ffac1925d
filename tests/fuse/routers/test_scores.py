import math

import numpy as np
import pytest
import torch

from align.errors import InputError
from fuse.routers.confidence import ConfidenceRouter
from fuse.routers.score import ScoreRouter
from fuse.routers.scores import score_weights
from fuse.signals import Signals, signals_needed

QUERY = torch.zeros(1, 3, 4)
ENTROPY = [[0.5, 1.5], [2.0, 1.0], [0.1, 0.2]]
MOST = [[0.8, 0.4], [0.3, 0.6], [0.9, 0.9]]


def softmax(x):
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


def told(**given):
    every = {name: torch.tensor([x]) for name, x in given.items()}
    return Signals(teachers=["a", "b"], **every)


@pytest.mark.parametrize(
    ("by", "given", "scores"),
    [
        ("entropy", {"entropy": ENTROPY}, -np.array(ENTROPY)),
        ("max_probability", {"max_prob": MOST}, np.log(MOST)),
        ("cross_entropy", {"log_prob": [[-1.0, -2], [-3, -4], [-5, -6]]}, None),
    ],
)
def test_a_token_is_weighed_by_how_sure_each_was_before_it(by, given, scores):
    if scores is None:
        scores = np.array(given["log_prob"])
    router = ConfidenceRouter(4, 2, by=by)
    weights = router(QUERY, told(**given))[0]
    assert weights[0].tolist() == [0.5, 0.5]  # nothing was said before
    np.testing.assert_allclose(weights[1:], softmax(scores[:2]), rtol=1e-6)
    sharp = ConfidenceRouter(4, 2, by=by, temperature=0.5)(QUERY, told(**given))[0]
    np.testing.assert_allclose(sharp[1:], softmax(2 * scores[:2]), rtol=1e-6)


def test_what_a_token_was_given_counts_by_its_characters():
    signals = told(log_prob=[[-1.0, -4], [-3, -4], [-5, -6]], widths=[0.0, 2, 3])
    weights = ConfidenceRouter(4, 2, by="cross_entropy", per_character=True)(
        QUERY, signals
    )
    np.testing.assert_allclose(weights[0, 1], softmax(np.array([-0.5, -2])), rtol=1e-6)


def test_scores_may_be_negative_and_their_softmax_weighs():
    signals = told(max_prob=MOST, right=[[1.0, 0], [0, 1], [1, 1]], entropy=ENTROPY)
    router = ScoreRouter(4, 2, alpha=2, beta=0.5, gamma=3)
    # 2 * 0.8 + 0.5 - 3 * 0.5 = 0.6, 2 * 0.4 - 3 * 1.5 = -3.7
    # 2 * 0.3 - 3 * 2 = -5.4, 2 * 0.6 + 0.5 - 3 * 1 = -1.3
    expected = softmax(np.array([[0.6, -3.7], [-5.4, -1.3]]))
    np.testing.assert_allclose(router(QUERY, signals)[0, 1:], expected, rtol=1e-5)


def test_of_whom_nothing_is_known_scores_as_the_others_on_average():
    scores = torch.tensor([[1.0, 3.0, math.nan], [math.nan] * 3])
    expected = softmax(np.array([[1.0, 3, 2], [0, 0, 0]]))
    np.testing.assert_allclose(score_weights(scores), expected, rtol=1e-6)


def test_needs_are_those_of_the_options():
    assert signals_needed(ScoreRouter, {"beta": 0, "gamma": 0}) == {"max_prob"}
    assert signals_needed(ScoreRouter(4, 2, alpha=0)) == {"right", "entropy"}
    assert signals_needed(ConfidenceRouter, {"by": "cross_entropy"}) == {"log_prob"}
    with pytest.raises(InputError, match=r"alpha, beta and gamma 0"):
        ScoreRouter(4, 2, alpha=0, beta=0, gamma=0)
    with pytest.raises(InputError, match=r"goes by 'luck'; choose from entropy"):
        ConfidenceRouter(4, 2, by="luck")
    with pytest.raises(InputError, match=r"set by: cross_entropy"):
        ConfidenceRouter(4, 2, per_character=True)
