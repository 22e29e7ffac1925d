"""Distances between rows of attention, against SciPy and by hand, in float64."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, wasserstein_distance

from align.errors import InputError
from student.match import DISTANCES
from student.match.distance import of_rows
from student.match.rows import check_keys, restricted

LAYERS, BATCH, ROWS, TOKENS = 2, 2, 3, 7
EVERY = sorted(name for name, made in DISTANCES.items() if of_rows(made))
QUERIES = torch.tensor([[2, 4, 6], [1, 3, 6]])


def rows(seed):
    """Probabilities (L, B, R, T) of keys up to each query."""
    generator = torch.Generator().manual_seed(seed)
    shape = (LAYERS, BATCH, ROWS, TOKENS)
    scores = torch.randn(*shape, generator=generator, dtype=torch.float64)
    past = torch.arange(TOKENS) <= QUERIES[..., None]
    return scores.masked_fill(~past, float("-inf")).softmax(-1)


@pytest.fixture
def sides():
    return rows(0), rows(1), torch.ones(LAYERS, BATCH, ROWS)


def each(distance, sides, reference):
    """The distance beside a reference of two rows."""
    pred, target, weight = sides
    apart = DISTANCES[distance]()(pred, target, weight).numpy()
    for place in np.ndindex(apart.shape):
        yield apart[place], reference(pred[place].numpy(), target[place].numpy())


def test_kl_and_js_and_wasserstein_are_scipys(sides):
    places = np.arange(TOKENS)
    for distance, reference in {
        "kl": lambda p, q: entropy(q, p, nan_policy="omit") if p.all() else None,
        "js": lambda p, q: jensenshannon(p, q) ** 2,
        "wasserstein": lambda p, q: wasserstein_distance(places, places, p, q),
    }.items():
        seen = 0
        for ours, expected in each(distance, sides, reference):
            if expected is not None:
                np.testing.assert_allclose(ours, expected, atol=1e-12)
                seen += 1
        assert seen >= 2


def test_kl_of_a_row_that_stops_early_is_that_of_what_it_holds(sides):
    pred, target, weight = sides
    apart = DISTANCES["kl"]()(pred, target, weight)
    held = slice(0, 3)  # the first text's first query is token 2
    expected = entropy(target[0, 0, 0, held].numpy(), pred[0, 0, 0, held].numpy())
    assert float(apart[0, 0, 0]) == pytest.approx(expected, abs=1e-12)


def test_sparse_looks_where_the_teacher_looks_and_squared_everywhere():
    pred = torch.tensor([0.7, 0.1, 0.2], dtype=torch.float64)[None, None, None]
    target = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)[None, None, None]
    weight = torch.ones(1, 1, 1)
    assert float(DISTANCES["sparse"]()(pred, target, weight)) == pytest.approx(0.6)
    strict = DISTANCES["sparse"](threshold=0.5)(pred, target, weight)
    assert float(strict) == 0
    squared = DISTANCES["squared"]()(pred, target, weight)
    assert float(squared) == pytest.approx(0.04 + 0.16 + 0.04)


@pytest.mark.parametrize("distance", EVERY)
def test_the_same_rows_cost_nothing_and_padding_changes_nothing(distance, sides):
    pred, target, weight = sides
    made = DISTANCES[distance]()
    assert float(made(target, target, weight).abs().max()) < 1e-12
    padded = [torch.cat([side, torch.zeros_like(side)], -1) for side in (pred, target)]
    torch.testing.assert_close(made(*padded, weight), made(pred, target, weight))


@pytest.mark.parametrize("distance", EVERY)
def test_gradients_are_those_of_finite_differences(distance, sides):
    scores = rows(3)[:1, :1].log().clamp_min(-20).requires_grad_()
    target = sides[1][:1, :1]

    def apart(scores):
        return DISTANCES[distance]()(scores.softmax(-1), target, torch.ones(1, 1, ROWS))

    assert torch.autograd.gradcheck(apart, scores)


def test_rows_are_compared_on_near_far_or_likeliest_tokens_by_hand():
    target = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]], dtype=torch.float64)
    pred = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]], dtype=torch.float64)
    query = torch.tensor([[3]])
    for keys, kept in {"local:2": [2, 3], "global:2": [0, 1], "top:1": [3]}.items():
        ours, theirs, known = restricted(pred, target, query, keys)
        mask = torch.zeros(4, dtype=torch.float64)
        mask[kept] = 1
        for side, expected in ((ours, pred), (theirs, target)):
            expected = expected * mask / (expected * mask).sum()
            torch.testing.assert_close(side, expected)
        assert bool(known.all())
    for keys in ("all", "top:9"):
        torch.testing.assert_close(
            restricted(pred, target, query, keys)[:2], (pred, target)
        )


def test_a_row_of_which_the_teacher_has_nothing_is_not_compared():
    target = torch.tensor([[[0.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]])[:, None]
    pred = torch.tensor([[[0.3, 0.3, 0.4]], [[0.3, 0.3, 0.4]]])[:, None]
    query = torch.tensor([[2]])
    assert restricted(pred, target, query, "all")[2].flatten().tolist() == [True, False]
    far, theirs, known = restricted(pred, target, query, "global:1")
    assert not known.any() and far.isfinite().all() and not theirs.any()


def test_tokens_that_cannot_be_meant_are_refused():
    for keys in ("local", "local:0", "near:3", ""):
        with pytest.raises(InputError, match=r"give all, local:N"):
            check_keys(keys)
