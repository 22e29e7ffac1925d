import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.kv import KV
from align.layer_map import (
    LayerMap,
    build_multi_teacher_layer_map,
    interpolate_teacher_layers,
)

depths = st.integers(1, 40)


def one(teacher, student, strategy="ratio"):
    return build_multi_teacher_layer_map([teacher], student, strategy)[0]


def test_ratio_interpolates_between_neighbours():
    # depth i * 4 / 3: 0, 1 1/3, 2 2/3, 4
    expected = [[1, 0, 0, 0, 0], [0, 2 / 3, 1 / 3, 0, 0], [0, 0, 1 / 3, 2 / 3, 0]]
    expected.append([0, 0, 0, 0, 1])
    torch.testing.assert_close(one(5, 4).matrix(), torch.tensor(expected))


def test_uniform_takes_the_nearest_layer_and_skip_every_second_from_the_top():
    assert [f[0][0] for f in one(5, 4, "uniform")] == [0, 1, 3, 4]
    assert [f[0][0] for f in one(24, 12, "skip")] == list(range(1, 24, 2))
    assert [f[0][0] for f in one(7, 3, "skip")] == [2, 4, 6]


@given(depths, depths, st.sampled_from(["ratio", "uniform", "skip"]))
@settings(max_examples=60, deadline=None)
def test_every_student_layer_is_fed_once_in_order_and_top_meets_top(
    teacher, student, strategy
):
    layer_map = one(teacher, student, strategy)
    matrix = layer_map.matrix(teacher)
    assert matrix.shape == (student, teacher)
    torch.testing.assert_close(matrix.sum(1), torch.ones(student))
    centre = matrix @ torch.arange(float(teacher))
    assert bool((centre.diff() >= -1e-5).all())
    assert float(centre[-1]) == pytest.approx(teacher - 1)
    if strategy != "skip" and student > 1:
        assert float(centre[0]) == 0


def test_a_deeper_student_and_layers_of_one_are_fine():
    assert [f[0][0] for f in one(2, 4, "skip")] == [0, 0, 0, 1]
    assert one(1, 3).layers == (((0, 1.0),),) * 3
    assert one(8, 1).layers == (((7, 1.0),),)


def test_a_layer_that_feeds_much_of_the_student_is_counted():
    assert one(6, 16, "skip").crowded(6) == (0, 11)  # 3 would be even
    assert one(8, 12, "skip").crowded(8) == (0, 5)
    assert one(2, 4, "skip").crowded(2) is None  # 3 of 4, where 2 are even


@given(depths, depths, st.sampled_from(["ratio", "uniform"]))
def test_even_strategies_crowd_no_layer(teacher, student, strategy):
    assert one(teacher, student, strategy).crowded(teacher) is None


def test_rounding_layers_would_skip_where_ratio_does_not():
    # round(l_t * L_s / L_t) sends two teacher layers of 8 to most of 6 student layers
    # and student layer 0 gets one, which is why the map runs over student layers
    hit = [round(layer * 6 / 8) for layer in range(8)]
    assert hit == [0, 1, 2, 2, 3, 4, 4, 5]
    centre = one(8, 6).matrix(8) @ torch.arange(8.0)
    torch.testing.assert_close(centre.diff(), torch.full((5,), 7 / 5))


def test_interpolation_mixes_keys_and_values():
    k = torch.arange(5.0).view(5, 1, 1, 1, 1)
    kv = KV(k, 10 * k, torch.ones(1, 1, dtype=torch.bool))
    maps = build_multi_teacher_layer_map([5], 4)
    mixed = interpolate_teacher_layers([kv], maps, 4)[0]
    torch.testing.assert_close(mixed.k.flatten(), torch.tensor([0, 4 / 3, 8 / 3, 4]))
    torch.testing.assert_close(mixed.v.flatten(), 10 * mixed.k.flatten())
    plain = interpolate_teacher_layers([k], maps, 4)[0]
    torch.testing.assert_close(plain, mixed.k)


@given(depths, depths)
@settings(max_examples=30, deadline=None)
def test_keeping_only_the_needed_layers_changes_nothing(teacher, student):
    maps = build_multi_teacher_layer_map([teacher], student)
    x = torch.randn(teacher, 2)
    few = x[list(maps[0].needed)]
    whole = interpolate_teacher_layers([x], maps, student)[0]
    assert torch.equal(
        interpolate_teacher_layers([few], maps, student, kept=True)[0], whole
    )


def test_gradients_and_half_precision_pass():
    x = torch.randn(5, 2, requires_grad=True)
    maps = build_multi_teacher_layer_map([5], 4)
    interpolate_teacher_layers([x], maps, 4)[0].sum().backward()
    torch.testing.assert_close(x.grad[:, 0], maps[0].matrix().sum(0))
    half = interpolate_teacher_layers([x.detach().bfloat16()], maps, 4)[0]
    assert half.dtype == torch.bfloat16


def test_explicit_maps_and_functions_are_accepted_and_checked():
    explicit = [[0, 2], [[(0, 0.5), (3, 0.5)], 1]]
    maps = build_multi_teacher_layer_map([3, 4], 2, explicit)
    assert maps[0].layers == (((0, 1.0),), ((2, 1.0),))
    assert maps[1].needed == (0, 1, 3)
    assert maps[1].remap().layers == (((0, 0.5), (2, 0.5)), ((1, 1.0),))
    top = build_multi_teacher_layer_map(
        [3], 2, lambda teacher, student: LayerMap((((teacher - 1, 1.0),),) * student)
    )
    assert top[0].needed == (2,)


def test_mistakes_are_named():
    message = (
        r"teachers\[1\] 'opt-350m': layer map asks for layer 24, but the model has "
        r"layers 0\.\.23; fix align\.layer_map"
    )
    with pytest.raises(ValueError, match=message):
        build_multi_teacher_layer_map(
            [12, 24], 1, [[3], [24]], teacher_names=["gpt2", "opt-350m"]
        )
    with pytest.raises(
        ValueError, match="unknown layer map 'ration'; valid are floor, origin, ratio"
    ):
        one(3, 2, "ration")
    with pytest.raises(ValueError, match="a teacher has 0 layers"):
        one(0, 2)
    with pytest.raises(ValueError, match="student layer 0 sum to"):
        LayerMap((((0, 0.4),),))
    with pytest.raises(ValueError, match="student layer 1 has no teacher layer"):
        LayerMap((((0, 1.0),), ()))
    with pytest.raises(ValueError, match="layers and weights are >= 0"):
        LayerMap((((-1, 1.0),),))
    with pytest.raises(ValueError, match="has 2 entries, but the student has 3"):
        build_multi_teacher_layer_map([4], 3, [[0, 1]])
    with pytest.raises(ValueError, match="1 explicit layer maps for 2 teachers"):
        build_multi_teacher_layer_map([4, 4], 1, [[0]])
    with pytest.raises(ValueError, match="1 teachers but 2 layer maps"):
        interpolate_teacher_layers([torch.zeros(2, 1)], [one(2, 2)] * 2, 2)
