"""Who is asked about which text, before anybody has read it."""

import numpy as np
import pytest
import torch

from align.errors import InputError
from align.text.documents import TextSample
from fuse.beforehand.choose import TextChoice, drawn, greatest, ranks_among
from fuse.beforehand.difficulty import DifficultyRouter
from fuse.beforehand.texts import Texts, decides_before_reading
from fuse.routers.label import LabelRouter
from fuse.routers.router import FixedRouter, LearnableRouter

NAMES = ("small", "middle", "large")


def sample(text, domain="prose"):
    return TextSample(text, domain, text)


def test_hard_is_one_hot_of_the_greatest_and_the_first_of_equal_ones():
    weights = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4], [0.0, 0.0, 1.0]])
    assert greatest(weights, 1).tolist() == [
        [False, True, False],
        [True, False, False],
        [False, False, True],
    ]
    assert greatest(weights, 2).tolist() == [
        [False, True, True],
        [True, False, True],
        [False, False, True],  # weight 0 is never among them
    ]


def test_draws_fall_as_the_cumulative_weights_say():
    weights = torch.tensor([[1.0, 0.0, 3.0]]).expand(5, -1)
    chosen = drawn(weights, [0.0, 0.2499, 0.25, 0.6, 0.9999])
    assert chosen.long().argmax(1).tolist() == [0, 0, 2, 2, 2]


def test_drawn_teachers_come_as_often_as_they_weigh():
    choice = TextChoice(FixedRouter(1, 3, weights=[1, 2, 5]), "sampled", NAMES, seed=3)
    texts = [sample("x")] * 2000
    shares = choice(texts, range(2000)).double().mean(0)
    spread = np.sqrt(np.array([1, 2, 5]) / 8 * (1 - np.array([1, 2, 5]) / 8) / 2000)
    assert (abs(shares.numpy() - np.array([1, 2, 5]) / 8) < 4 * spread).all()


def test_a_draw_depends_on_the_number_of_the_text_alone():
    """So passes, processes and resumed runs draw alike."""
    choice = TextChoice(FixedRouter(1, 3), "sampled", NAMES, seed=1)
    texts = [sample(str(i)) for i in range(12)]
    whole = choice(texts, range(12))
    parts = [choice(texts[i : i + 3], range(i, i + 3)) for i in (9, 0, 6, 3)]
    assert torch.equal(whole, torch.cat([parts[1], parts[3], parts[2], parts[0]]))
    other = TextChoice(FixedRouter(1, 3), "sampled", NAMES, seed=2)
    assert not torch.equal(whole, other(texts, range(12)))


def test_ranks_are_shares_of_texts_that_are_easier_ties_half():
    scores = [3.0, 1.0, 3.0, 8.0]
    rank = ranks_among(scores)
    for value in (0, 1, 2, 3, 8, 9):
        below = sum(s < value for s in scores) + sum(s == value for s in scores) / 2
        assert rank(value) == below / 4


def test_easy_texts_go_to_small_teachers_by_parameters_or_by_name():
    ranks = torch.tensor([0.1, 0.34, 0.99, 0.66], dtype=torch.float64)
    texts = Texts(
        teachers=NAMES,
        domains=["prose"] * 4,
        ranks=ranks,
        costs=torch.tensor([10.0, 300.0, 20.0], dtype=torch.float64),
    )
    by_size = DifficultyRouter(1, 3).beforehand(texts)
    assert by_size.argmax(1).tolist() == [0, 2, 1, 2]  # 10 < 20 < 300
    named = DifficultyRouter(1, 3, order=["large", "small"], bounds=[0.9])
    assert named.beforehand(texts).argmax(1).tolist() == [2, 2, 0, 2]
    assert bool((named.beforehand(texts).sum(1) == 1).all())


def test_texts_of_a_teacher_that_takes_no_part_go_to_the_nearest():
    router = DifficultyRouter(1, 2, order=["small", "middle", "large"])
    texts = Texts(
        teachers=("large", "small"),
        domains=["prose"] * 3,
        ranks=torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64),
    )
    assert router.beforehand(texts).argmax(1).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": ["a", "a"]}, "name each teacher once"),
        ({"order": ["a", "b"], "bounds": [0.2, 0.5]}, "give 1 shares of the texts"),
        ({"order": ["a", "b"], "bounds": [1.0]}, "above 0 and below 1"),
        ({"bounds": [0.5]}, "give order"),
    ],
)
def test_bands_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DifficultyRouter(1, 2, **options)


def test_a_store_of_unknown_size_has_to_be_put_in_order():
    texts = Texts(
        teachers=NAMES,
        domains=["prose"],
        ranks=torch.tensor([0.5], dtype=torch.float64),
        costs=torch.tensor([1.0, torch.nan, 2.0], dtype=torch.float64),
    )
    with pytest.raises(InputError, match=r"how many middle has; give .*order"):
        DifficultyRouter(1, 3).beforehand(texts)


def test_a_label_chooses_a_domains_own_teacher():
    router = LabelRouter(1, 3, domains={"code": "large", "prose": "small"})
    texts = [sample("a", "code"), sample("b"), sample("c", "code")]
    choice = TextChoice(router, "hard", NAMES, seed=0, texts=texts)
    assert choice(texts, range(3)).long().argmax(1).tolist() == [2, 0, 2]
    assert choice.never == ("middle",)


def test_softly_who_has_no_weight_rests_and_others_count_as_they_are_weighed():
    router = LabelRouter(1, 3, domains={"code": "large", "prose": "small"})
    texts = [sample("a", "code"), sample("b", "verse"), sample("c")]
    choice = TextChoice(router, "soft", NAMES, seed=0, texts=texts)
    assert choice(texts, range(3)).long().tolist() == [[0, 0, 1], [1, 1, 1], [1, 0, 0]]
    assert choice.spares and choice.never == ()
    for kind, apart in (("soft", ()), ("hard", ("large", "middle"))):
        prose = TextChoice(router, kind, NAMES, seed=0, texts=texts[2:])
        assert sorted(prose.never) == ["large", "middle"]
        assert tuple(sorted(prose.apart)) == apart  # softly, all is as if they had read
    assert not TextChoice(router, "soft", NAMES, seed=0, texts=texts[1:2]).spares
    assert not TextChoice(FixedRouter(1, 3), "soft", NAMES, seed=0, texts=texts).spares


def test_ranks_are_asked_once_a_text():
    asked = []

    def rank(text):
        asked.append(text.text)
        return 0.5

    router = DifficultyRouter(1, 3, order=list(NAMES))
    choice = TextChoice(router, "hard", NAMES, seed=0, rank=rank)
    for _ in range(3):
        assert choice([sample("a"), sample("b")], (0, 1))[:, 1].all()
    assert asked == ["a", "b"]


def test_who_has_to_wait_for_hidden_states_does_not_decide_before():
    assert decides_before_reading(FixedRouter) and decides_before_reading(LabelRouter)
    assert not decides_before_reading(LearnableRouter)


def test_no_more_teachers_are_taken_than_there_are():
    with pytest.raises(InputError, match="give 1 <= k <= 3"):
        TextChoice(FixedRouter(1, 3), "top_k", NAMES, seed=0, k=4)
