"""Similar layers: exact against the naive formula, and the best monotone path."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.layer_map import build_multi_teacher_layer_map, needs_sample, ratio
from align.layer_similarity import (
    LayerSimilarity,
    SimilarLayers,
    similarity_layer_map,
)
from align.pictures.similarity import visualize_layer_similarity


def naive_cka(x, y):
    """Kornblith et al. (2019), equations 2 and 3, as written there."""
    n = len(x)
    centre = torch.eye(n, dtype=torch.float64) - torch.ones(n, n).double() / n
    k, other = x @ x.T, y @ y.T

    def hsic(a, b):
        return torch.trace(a @ centre @ b @ centre) / (n - 1) ** 2

    return hsic(k, other) / (hsic(k, k) * hsic(other, other)).sqrt()


def features(layers, tokens, width, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(layers, tokens, width, generator=generator)
    return x * torch.rand(width, generator=generator) * 30 + 5


@pytest.mark.parametrize("standardize", [False, True])
def test_similarity_is_exactly_the_naive_formula(standardize):
    teacher, student = features(4, 60, 9, 0), features(3, 60, 7, 1)
    gathered = LayerSimilarity()
    for part in (slice(0, 11), slice(11, 12), slice(12, 60)):
        gathered.update(teacher[:, part], student[:, part])
    got = gathered.cka(standardize)

    def ready(layer):
        layer = layer.double()
        return layer / layer.std(0, correction=0) if standardize else layer

    for i, j in itertools.product(range(4), range(3)):
        expected = naive_cka(ready(teacher[i]), ready(student[j]))
        assert float(got[i, j]) == pytest.approx(float(expected), abs=1e-9)


def test_rotation_and_scale_do_not_matter_and_loud_channels_need_not():
    x = features(1, 50, 6, 2)
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    gathered = LayerSimilarity()
    gathered.update(x, 3 * x @ rotation)
    assert float(gathered.cka(standardize=False)) == pytest.approx(1, abs=1e-6)
    loud = x.clone()
    loud[..., 0] *= 1e4
    gathered = LayerSimilarity()
    gathered.update(x, loud)
    assert float(gathered.cka()) == pytest.approx(1, abs=1e-6)
    assert float(gathered.cka(standardize=False)) < 0.9


def test_memory_is_bounded_and_constant_layers_are_like_nothing():
    gathered = LayerSimilarity(max_tokens=10)
    x = features(2, 8, 4, 3)
    x[1] = 2.0
    gathered.update(x, x)
    assert not gathered.full
    gathered.update(x, x)
    gathered.update(x, x)
    assert gathered.full and gathered.n == 10
    assert sum(part.shape[1] for part in gathered._teacher) == 10
    assert gathered.cka()[1].tolist() == [0, 0]


def best_by_trying_all(similarity):
    """The largest total over all monotone choices, by enumeration."""
    teachers, students = similarity.shape
    totals = []
    for path in itertools.product(range(teachers), repeat=students):
        steps = [b - a for a, b in itertools.pairwise(path)]
        if all(step >= (1 if teachers >= students else 0) for step in steps):
            totals.append(sum(float(similarity[t, s]) for s, t in enumerate(path)))
    return max(totals)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_path_is_the_best_of_all_monotone_ones(teachers, students, seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(teachers, students, generator=generator).double()
    chosen = similarity_layer_map(similarity)
    path = [feeds[0][0] for feeds in chosen]
    steps = [b - a for a, b in itertools.pairwise(path)]
    assert all(step >= (1 if teachers >= students else 0) for step in steps)
    total = sum(float(similarity[t, s]) for s, t in enumerate(path))
    assert total == pytest.approx(best_by_trying_all(similarity))


def test_a_student_made_of_a_teacher_s_layers_finds_them_again():
    teacher = features(9, 200, 12, 4)
    chosen = [1, 2, 6, 8]
    student = teacher[chosen] @ torch.linalg.qr(torch.randn(12, 12))[0]
    student = student + 0.01 * features(4, 200, 12, 5)
    gathered = LayerSimilarity()
    gathered.update(teacher, student)
    found = similarity_layer_map(gathered.cka(standardize=False))
    assert [feeds for feeds in found] == [((layer, 1.0),) for layer in chosen]
    # the map is taken wherever explicit ones are
    assert build_multi_teacher_layer_map([9], 4, [found]) == [found]


def test_the_plugin_maps_by_the_sample_it_is_given():
    gathered = LayerSimilarity()
    teacher, student = features(5, 60, 9, 0), features(3, 60, 7, 1)
    gathered.update(teacher[:, :20], student[:, :20])
    gathered.update(teacher[:, 20:], student[:, 20:])
    assert torch.equal(gathered.teacher, teacher)
    assert torch.equal(gathered.student, student)
    strategy = SimilarLayers()
    assert needs_sample(strategy) and not needs_sample(ratio)
    assert strategy(5, 3, gathered) == similarity_layer_map(gathered.cka())
    with pytest.raises(ValueError, match=r"5 teacher and 3 student layers, but .* 6"):
        strategy(6, 3, gathered)


def test_mistakes_are_named():
    gathered = LayerSimilarity()
    with pytest.raises(ValueError, match="0 tokens gathered"):
        gathered.cka()
    with pytest.raises(ValueError, match="3 teacher tokens for 2 student tokens"):
        gathered.update(torch.zeros(2, 3, 4), torch.zeros(2, 2, 4))
    gathered.update(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"student has shape \(2, 3, 5\)"):
        gathered.update(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match="teacher holds values that are not finite"):
        gathered.update(torch.full((2, 3, 4), torch.nan), torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="max_tokens is 1"):
        LayerSimilarity(max_tokens=1)
    with pytest.raises(ValueError, match=r"shape \(3,\); give \(L_t, L_s\)"):
        similarity_layer_map(torch.zeros(3))
    with pytest.raises(ValueError, match="not finite"):
        similarity_layer_map(torch.full((2, 2), torch.nan))


def test_the_picture_shows_matrix_and_path(tmp_path):
    similarity = torch.rand(8, 4)
    chosen = similarity_layer_map(similarity)
    file = tmp_path / "deep" / "cka.png"
    pair, maps = [similarity, similarity], [chosen, chosen]
    figure = visualize_layer_similarity(pair, maps, ["a", "b"], file)
    assert file.read_bytes().startswith(b"\x89PNG")
    axes = figure.axes[0]
    drawn = axes.lines[0].get_ydata()
    assert list(drawn) == [feeds[0][0] for feeds in chosen]
    assert axes.images[0].get_array().shape == (8, 4)
    with pytest.raises(ValueError, match="the map of 'a' has 4 student layers"):
        visualize_layer_similarity(torch.rand(8, 3), chosen, ["a"])
    with pytest.raises(ValueError, match="layer_map has 1 entries for 2"):
        visualize_layer_similarity([similarity, similarity], chosen)
