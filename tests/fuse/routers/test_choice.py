import numpy as np
import pytest
import torch

from align.errors import InputError
from fuse.beforehand.choose import text_draws
from fuse.config import FuseConfig
from fuse.routers.choice import choose
from fuse.routers.constant import ConstantRouter
from fuse.routers.router import LearnableRouter
from fuse.weigher import FixedWeigher, Weigher, prior

WEIGHTS = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.0, 0.0, 0.0]])


def test_hard_is_one_hot_of_the_greatest_and_of_equal_ones_the_first():
    expected = np.zeros((3, 3))
    expected[[0, 1], WEIGHTS[:2].argmax(-1)] = 1
    assert choose(WEIGHTS, "hard").tolist() == expected.tolist()
    assert choose(WEIGHTS, "soft").equal(WEIGHTS)


def test_top_k_keeps_the_shares_of_the_greatest():
    kept = choose(WEIGHTS, "top_k", k=2)
    expected = torch.tensor([[0, 0.625, 0.375], [0.5, 0.5, 0], [0, 0, 0]])
    torch.testing.assert_close(kept, expected)
    torch.testing.assert_close(choose(WEIGHTS, "top_k", k=9), WEIGHTS)


def test_who_is_drawn_is_drawn_as_often_as_it_weighs():
    draws = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = choose(WEIGHTS[0].expand(1000, 3), "sampled", draws=draws)
    assert drawn.sum(0).tolist() == [200, 500, 300]
    assert drawn.sum(-1).eq(1).all()
    none = choose(WEIGHTS[2], "sampled", draws=torch.tensor(0.7, dtype=torch.float64))
    assert not none.any()
    with pytest.raises(ValueError, match=r"sampled has no draws"):
        choose(WEIGHTS, "sampled")


def test_draws_follow_from_the_seed_and_the_texts_number_alone():
    together = text_draws(3, range(10, 14), 40)
    parts = [text_draws(3, range(first, first + 2), 40) for first in (10, 12)]
    assert torch.equal(torch.cat(parts), together)  # passes and processes
    assert torch.equal(text_draws(3, [12], 7)[0], together[2, :7])  # padded less
    assert not torch.equal(text_draws(4, range(10, 14), 40), together)


def test_who_is_chosen_alone_hands_the_gradient_on_as_if_nobody_were():
    scores = torch.tensor([[0.3, 0.1, -0.2]], requires_grad=True)
    pull = torch.tensor([[1.0, 2.0, -1.0]])
    (of_soft,) = torch.autograd.grad((scores.softmax(-1) * pull).sum(), scores)
    hard = choose(scores.softmax(-1), "hard")
    assert hard.detach().round().tolist() == [[1, 0, 0]]
    (of_hard,) = torch.autograd.grad((hard * pull).sum(), scores)
    torch.testing.assert_close(of_hard, of_soft)


MASK = torch.tensor([[True, True, True, False]])
EVERY = MASK[..., None].expand(1, 4, 2)


class Told(torch.nn.Module):
    learns = False
    needs = frozenset({"entropy"})

    def forward(self, query, signals):
        return signals


def test_whole_texts_are_given_one_teacher_among_those_that_cover_any_of_them():
    said = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [1.0, 0.0]]])
    hidden = torch.zeros(1, 4, 3)
    weigher = Weigher(Told(), "sample", choice="hard")
    weighed = weigher.weigh(hidden, MASK, EVERY, said)
    # the mean of the three real tokens: 1.4 / 3 and 1.6 / 3
    torch.testing.assert_close(weighed.soft[0, 0], torch.tensor([1.4, 1.6]) / 3)
    assert weighed.weights[0, :3].tolist() == [[0, 1]] * 3
    some = EVERY.clone()
    some[:, 1, 1] = False  # it covers not all: nobody stands in
    assert weigher(hidden, MASK, some, said)[0, :3].tolist() == [[0, 1], [0, 0], [0, 1]]
    some[..., 1] = False
    assert weigher(hidden, MASK, some, said)[0, :3].tolist() == [[1, 0]] * 3
    by_token = Weigher(Told(), choice="hard")(hidden, MASK, EVERY, said)
    assert by_token[0, :3].argmax(-1).tolist() == [0, 1, 1]


def test_layers_choose_by_themselves_and_soft_weights_stay_the_routers():
    torch.manual_seed(0)
    routers = [LearnableRouter(3, 2), ConstantRouter(3, 2)]
    with torch.no_grad():
        routers[1].score.copy_(torch.tensor([0.0, 1.0]))
    weigher = Weigher(routers, choice="hard")
    weighed = weigher.weigh(torch.randn(1, 4, 3), MASK, EVERY)
    assert weighed.weights[:, 0, 0].tolist() == [[1, 0], [0, 1]]
    e = float(np.exp(1))
    torch.testing.assert_close(
        weighed.soft[:, 0, 0], torch.tensor([[0.5, 0.5], [1 / (1 + e), e / (1 + e)]])
    )


def test_whom_fixed_shares_choose_is_known_beforehand():
    weigher = FixedWeigher([1, 3])
    weigher.choice = "hard"
    assert prior(weigher, EVERY)[0, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("best", r"'best'; choose from soft, hard, sampled"),
        ("top_k", r"top_k takes the number"),
        ({"use": "top_k", "k": 0}, r"top_k takes the number"),
        ({"use": "hard", "k": 2}, r"the others take no option"),
    ],
)
def test_a_choice_that_nobody_makes_is_refused(choice, said):
    with pytest.raises(InputError, match=said):
        FuseConfig(choice=choice)
