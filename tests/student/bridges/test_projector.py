"""What the space ``losses`` may be told: a scale a layer, easier teachers left out."""

import pytest
import torch

from align.calibration import CalibrationStats
from align.errors import InputError
from align.sizes import Sizes
from student.bridges import ProjectorBridge
from student.bridges.base import PairStats
from student.bridges.projector import without_easier
from tests.student.bridges.test_bridges import equal_weights

STUDENT = Sizes(layers=1, heads=1, k_dim=2, v_dim=2, hidden_size=2)


def test_the_hardest_teacher_stays_and_takes_the_weight_of_those_left_out():
    apart = torch.tensor([[[1.0, 5.0, 2.0], [1.0, 1.0, 2.0]]])  # means 1, 3, 2
    weights = torch.tensor([[[0.2, 0.3, 0.5], [0.5, 0.0, 0.5]]])
    dropped = torch.tensor([[True, True, False]])
    kept = without_easier(apart, weights, dropped)
    # the second weighs on the first token alone, where it is 5: it is the hardest
    expected = torch.tensor([[[0.0, 0.375, 0.625], [0.0, 0.0, 1.0]]])
    torch.testing.assert_close(kept, expected)


def test_a_token_that_only_easier_teachers_cover_keeps_its_weights():
    apart = torch.tensor([[[1.0, 5.0], [1.0, 5.0]]])
    weights = torch.tensor([[[0.5, 0.5], [0.4, 0.0]]])
    kept = without_easier(apart, weights, torch.tensor([[True, True]]))
    torch.testing.assert_close(kept, torch.tensor([[[0.0, 1.0], [0.4, 0.0]]]))


def test_a_teacher_without_a_token_of_the_text_is_never_the_hardest():
    apart = torch.tensor([[[1.0, 0.0]], [[1.0, 9.0]]])
    weights = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    kept = without_easier(apart, weights, torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(kept, weights)


def test_layers_with_weights_of_their_own_drop_the_same_teacher():
    apart = torch.tensor([[[1.0, 2.0]]])
    weights = torch.tensor([[[[0.5, 0.5]]], [[[0.9, 0.1]]]])  # (L, B, T, M)
    kept = without_easier(apart, weights, torch.tensor([[True, False]]))
    torch.testing.assert_close(kept, torch.tensor([[[[0.0, 1.0]]]] * 2))


def test_a_bridge_drops_in_training_alone_and_tokens_weigh_what_they_did(school):
    lesson = school.lesson("projector")
    batch = school.batch()
    views = lesson.panel(batch)
    weights = equal_weights(batch, views)
    kv = lesson.capture(batch.ids, batch.mask).kv

    def compared():
        pairs = lesson.bridge.compare(kv, views, weights)
        return torch.stack([pair.weight for pair in pairs], -1)

    assert torch.equal(compared(), weights)  # off unless asked for
    lesson.bridge.drop_easier = 1.0
    kept = compared()
    torch.testing.assert_close(kept.sum(-1), weights.sum(-1))
    both = (weights > 0).all(-1)
    assert both.any() and ((kept > 0).sum(-1)[both] == 1).all()
    for text in (kept > 0) & both[..., None]:  # one teacher a text, not a token
        assert text.any(0).sum() == 1
    with torch.no_grad():
        assert torch.equal(compared(), weights)
    lesson.bridge.eval()
    assert torch.equal(compared(), weights)


def test_one_scale_a_layer_keeps_channels_sizes_beside_each_other(school):
    lesson = school.lesson("projector", ("gpt2-prose",))
    shape = lesson.bridge.teachers[0]
    torch.manual_seed(0)
    spread = torch.linspace(0.1, 3, shape.k_width)
    y = torch.randn(2, 400, shape.k_width) * spread + 7
    x = torch.randn(2, 400, lesson.bridge.student.k_width)
    pair = _pairs(y, x)
    bridge = ProjectorBridge(lesson.bridge.student, [shape], scale="layer")
    bridge.calibrate(0, pair, pair)
    scaled = bridge.teacher_k[0](y[:, None])[:, 0]
    torch.testing.assert_close(scaled.square().mean((1, 2)), torch.ones(2))
    torch.testing.assert_close(scaled.mean(1), torch.zeros(2, shape.k_width))
    ratio = scaled.std(1) / y.std(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    # the projector that is fitted speaks of the same units: it predicts the mean best
    predicted = bridge.project_k[0](bridge.student_k(x[:, None]))[:, 0]
    assert float((predicted - scaled).square().mean().detach()) <= 1.01


def _pairs(teacher, student):
    (layers, _, width_t), width_s = teacher.shape, student.shape[2]
    pair = PairStats(
        CalibrationStats(layers, width_t, width_s),
        CalibrationStats(layers, width_s, width_t),
    )
    pair.to_student.update(teacher, student, mirrored=pair.to_teacher)
    return pair


@pytest.mark.parametrize("option", [{"scale": "token"}, {"drop_easier": 1.5}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(InputError, match=next(iter(option))):
        ProjectorBridge(STUDENT, [], **option)
