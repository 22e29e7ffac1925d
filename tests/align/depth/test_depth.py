"""Layers by density and by reconstruction, against plain counting and scikit-learn."""

import pytest
import torch

from align.depth import (
    DenseLayers,
    ImportantLayers,
    RebuiltLayers,
    density_layer_map,
    importance_layer_map,
    layer_steps,
    reconstruction,
)
from align.errors import InputError
from align.layer_map import floor
from align.layer_similarity import LayerSimilarity


def layers_of(layer_map):
    return [feeds[0][0] for feeds in layer_map]


def sample_of(teacher, student):
    sample = LayerSimilarity()
    sample.update(teacher, student)
    return sample


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_floor_is_the_maps_of_the_documents():
    assert layers_of(floor(24, 6)) == [0, 4, 8, 12, 16, 20]
    assert layers_of(floor(24, 18)) == [i * 24 // 18 for i in range(18)]
    assert layers_of(floor(2, 5)) == [0, 0, 0, 1, 1]


def test_layers_lie_where_the_teacher_changes():
    # one step as long as the four others together: 0 . . . . . . 1 . 2 . 3 . 4 . 5
    steps = torch.tensor([4.0, 1.0, 1.0, 1.0, 1.0])
    assert layers_of(density_layer_map(steps, 5)) == [0, 0, 1, 3, 5]
    assert layers_of(density_layer_map(torch.zeros(5), 3)) == [0, 2, 5]
    assert layers_of(density_layer_map(torch.ones(5), 6)) == [0, 1, 2, 3, 4, 5]
    assert layers_of(density_layer_map(torch.ones(5), 1)) == [5]
    assert layers_of(density_layer_map(torch.zeros(0), 3)) == [0, 0, 0]


def test_a_rotated_layer_is_no_step_away_and_an_unlike_one_a_long_one():
    base = draw(200, 6)
    turned = 3 * base @ torch.linalg.qr(draw(6, 6, seed=1))[0]
    teacher = torch.stack([base, turned, draw(200, 6, seed=2), torch.ones(200, 6)])
    sample = sample_of(teacher, draw(2, 200, 4, seed=3))
    steps = layer_steps(sample)
    assert steps[0] < 0.4 < 1.2 < steps[1]  # what varies alike by channel
    assert float(steps[2]) == pytest.approx(torch.pi / 2)
    assert DenseLayers()(4, 2, sample) == density_layer_map(steps, 2)
    with pytest.raises(ValueError, match="4 teacher and 2 student layers"):
        DenseLayers()(5, 2, sample)


def test_what_is_explained_is_what_ridge_regression_leaves_out_one_by_one():
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import LeaveOneOut, cross_val_predict

    n, student, teacher = 30, draw(1, 30, 5).double(), draw(1, 30, 4, seed=1).double()
    teacher = teacher + student @ draw(5, 4, seed=2).double()
    x, y = (
        ((z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True))[0]
        for z in (student, teacher)
    )
    strength = 0.01 * float((x @ x.T).trace()) / n
    # each fold centres its own tokens, as PRESS does for all at once
    predicted = cross_val_predict(Ridge(alpha=strength), x, y, cv=LeaveOneOut())
    error = (torch.from_numpy(predicted) - y).square().sum() / y.square().sum()
    found = float(reconstruction(student, teacher)[0, 0])
    assert found == pytest.approx(1 - float(error), abs=1e-6)
    assert 0.3 < found < 1


def test_a_student_made_of_a_teachers_layers_finds_them_again_through_a_linear_map():
    teacher = draw(9, 200, 12)
    chosen = [1, 2, 6, 8]
    student = torch.stack(
        [teacher[layer] @ draw(12, 15, seed=layer) for layer in chosen]
    )
    sample = sample_of(teacher, student + 0.01 * draw(4, 200, 15, seed=40))
    assert layers_of(RebuiltLayers()(9, 4, sample)) == chosen
    with pytest.raises(ValueError, match="9 teacher and 4 student layers"):
        RebuiltLayers()(9, 5, sample)


def test_a_wide_layer_of_noise_explains_nothing_and_a_constant_one_is_nothing():
    noise, constant = draw(1, 40, 300), torch.ones(1, 40, 6)
    teacher = torch.cat([draw(1, 40, 6, seed=1), constant])
    found = reconstruction(noise, teacher)
    assert float(found[0, 0]) < 0.1  # a fit of all tokens would be perfect
    assert float(found[1, 0]) == 0
    flat = reconstruction(constant, teacher)
    assert flat.isfinite().all() and float(flat[0, 0]) < 0


def test_the_most_important_layers_are_read_from_bottom_to_top():
    importance = torch.tensor([0.1, 3.0, 0.2, 0.2, 5.0])
    assert layers_of(importance_layer_map(importance, 2)) == [1, 4]
    assert layers_of(importance_layer_map(importance, 3)) == [1, 2, 4]  # the lower
    assert layers_of(importance_layer_map(importance, 5)) == [0, 1, 2, 3, 4]
    assert layers_of(importance_layer_map(importance[:2], 4)) == [0, 0, 1, 1]
    sample = sample_of(draw(5, 9, 3), draw(2, 9, 3))
    with pytest.raises(InputError, match="nobody measured"):
        ImportantLayers()(5, 2, sample)
    sample.importance = importance
    assert layers_of(ImportantLayers()(5, 2, sample)) == [1, 4]
    with pytest.raises(InputError, match="not finite"):
        importance_layer_map(torch.tensor([1.0, float("nan")]), 1)
