import math

import pytest
import torch

from align.errors import InputError
from fuse.routers.prequential import PrequentialRouter, prequential_weights, read_scores
from fuse.signals import Signals, signals_needed


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


def test_an_impossible_stretch_leaves_no_nan():
    heard = torch.tensor([[-math.inf, -1.0], [-1.0, -1.0]])
    weights = prequential_weights(read_scores(heard, 0.5), 1)
    torch.testing.assert_close(weights[1:], torch.tensor([[0.0, 1.0]] * 2))


QUERY = torch.zeros(1, 5, 3)


def told(nats, ends):
    return Signals(
        teachers=["a", "b"],
        foretold=torch.tensor([nats]),
        ends=torch.tensor([ends], dtype=torch.bool),
    )


def test_a_token_is_weighed_by_the_stretches_that_ended_before_it():
    nats = [[0.0, 0.0], [-1.0, -3.0], [0.0, 0.0], [-2.0, -0.5], [0.0, 0.0]]
    router = PrequentialRouter(3, 2, eta=1, decay=0.5)
    weights = router(QUERY, told(nats, [0, 1, 0, 1, 0]))
    scores = torch.tensor([[0, 0], [0, 0], [-0.5, -1.5], [-0.5, -1.5], [-1.25, -1.0]])
    torch.testing.assert_close(weights[0], scores.softmax(-1))


@pytest.mark.parametrize("place", range(5))
def test_what_a_token_and_later_ones_say_moves_no_weight_up_to_it(place):
    nats = torch.full((5, 2), -1.0)
    nats[:, 1] = -2.0
    router = PrequentialRouter(3, 2)
    before = router(QUERY, told(nats.tolist(), [1] * 5))
    nats[place:, 0] = -9.0
    after = router(QUERY, told(nats.tolist(), [1] * 5))
    assert torch.equal(before[:, : place + 1], after[:, : place + 1])
    assert place == 4 or not torch.equal(before, after)


def test_texts_of_unequal_length_are_weighed_by_themselves():
    long = told([[-1.0, -2.0]] * 5, [1] * 5)
    short = told([[-3.0, -1.0], *[[0.0, 0.0]] * 4], [1, 0, 0, 0, 0])
    both = Signals(
        teachers=["a", "b"],
        foretold=torch.cat([long.foretold, short.foretold]),
        ends=torch.cat([long.ends, short.ends]),
    )
    router = PrequentialRouter(3, 2)
    apart = torch.cat([router(QUERY, long), router(QUERY, short)])
    torch.testing.assert_close(router(QUERY.expand(2, -1, -1), both), apart)


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match="decay"):
        PrequentialRouter(3, 2, decay=1.5)
    with pytest.raises(InputError, match="eta"):
        PrequentialRouter(3, 2, eta=-1)


def test_a_need_that_nobody_knows_is_refused():
    class Curious(PrequentialRouter):
        needs = frozenset({"weather"})

    with pytest.raises(InputError, match=r"needs 'weather'.*domain, entropy"):
        signals_needed(Curious)


def test_a_causal_router_is_told_nothing_that_lies_ahead():
    class Hasty(PrequentialRouter):
        needs = frozenset({"log_prob", "entropy"})

    class Late(Hasty):
        causal = False

    with pytest.raises(InputError, match=r"'Hasty' needs log_prob, which at a place"):
        signals_needed(Hasty)
    assert signals_needed(Late) == {"log_prob", "entropy"}


def test_needs_may_depend_on_options():
    class Choosy(PrequentialRouter):
        @staticmethod
        def needs_with(by="entropy"):
            return frozenset({by})

    assert signals_needed(Choosy) == {"foretold"}
    assert signals_needed(Choosy, {}) == {"entropy"}
    assert signals_needed(Choosy, {"by": "cost"}) == {"cost"}


@pytest.mark.parametrize("decay", [0.8, 1.0])
def test_scores_are_sums_in_float32_where_products_are_bfloat16(decay):
    """A text of a thousand nats whose teachers are a nat apart still says which."""
    chance = torch.Generator().manual_seed(2)
    heard = -8 * torch.rand(1, 200, 2, generator=chance)
    expected = read_scores(heard, decay)
    with torch.autocast("cpu", torch.bfloat16):
        scores = read_scores(heard, decay)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, expected)
