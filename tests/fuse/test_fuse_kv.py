import pytest
import torch

from align.kv import KV
from fuse.fuse_kv import (
    LearnableRouter,
    fuse_kvs_fixed,
    fuse_kvs_learnable,
    fuse_kvs_similarity,
    fuse_with_weights,
)

L, B, H, T, D = 2, 3, 2, 4, 5


def constant_kv(value, mask=None, dtype=torch.float32):
    k = torch.full((L, B, H, T, D), float(value), dtype=dtype)
    mask = torch.ones(B, T, dtype=torch.bool) if mask is None else mask
    return KV(k, -2 * k[..., :3], mask)


def test_fixed_is_the_weighted_mean_by_hand():
    # 0.25 * 1 + 0.75 * 5 = 4; values are -2 times the keys
    fused = fuse_kvs_fixed([constant_kv(1), constant_kv(5)], weights=[0.25, 0.75])
    assert isinstance(fused, KV)
    assert fused.k.eq(4).all() and fused.v.eq(-8).all() and fused.mask.all()


def test_fixed_weights_count_by_their_ratio_and_default_to_equal():
    x, y = torch.zeros(L, B, H, T, D), torch.ones(L, B, H, T, D)
    torch.testing.assert_close(fuse_kvs_fixed([x, y], [1, 3]), 0.75 * y)
    torch.testing.assert_close(fuse_kvs_fixed([x, y]), 0.5 * y)


def test_one_teacher_comes_back_unchanged():
    kv = KV(*torch.randn(2, L, B, H, T, D), torch.rand(B, T) > 0.3)
    fused = fuse_kvs_fixed([kv])
    assert torch.equal(fused.mask, kv.mask)
    held = kv.mask[None, :, None, :, None].expand_as(kv.k)
    torch.testing.assert_close(fused.k[held], kv.k[held])


@pytest.mark.parametrize("shape", [(L, B, H, T, D), (L, B, T, D), (B, T, D)])
def test_tensors_keep_shape_and_dtype(shape):
    xs = [torch.full(shape, 2.0, dtype=torch.bfloat16) for _ in range(3)]
    weights = torch.rand(B, T, 3)
    fused = fuse_with_weights(xs, weights)
    assert fused.shape == shape and fused.dtype == torch.bfloat16
    assert fused.eq(2).all()


@pytest.mark.parametrize("shape", [(3,), (B, 3), (B, T, 3), (L, B, T, 3)])
def test_every_weight_shape_agrees_with_a_dense_sum(shape):
    torch.manual_seed(0)
    xs = [torch.randn(L, B, H, T, D) for _ in range(3)]
    weights = torch.rand(shape).softmax(-1)
    w = weights[:, None] if weights.dim() == 2 else weights
    dense = w.expand(L, B, T, 3)
    expected = torch.einsum("mlbhtd,lbtm->lbhtd", torch.stack(xs), dense)
    torch.testing.assert_close(fuse_with_weights(xs, weights), expected)


def test_a_teacher_without_text_neither_votes_nor_dilutes():
    here = torch.ones(B, T, dtype=torch.bool)
    gone = here.clone()
    gone[0, 1] = False
    a, b = constant_kv(1, here), constant_kv(5, gone)
    b.k[:, 0, :, 1] = float("nan")  # padding may hold anything
    fused = fuse_kvs_fixed([a, b], [0.5, 0.5])
    assert fused.k[:, 0, :, 1].eq(1).all()
    assert fused.k[:, 0, :, 0].eq(3).all()
    assert fused.mask.all()


def test_a_token_covered_by_no_weighted_teacher_is_masked_and_zero():
    none = torch.ones(B, T, dtype=torch.bool)
    none[2, 3] = False
    fused = fuse_kvs_fixed([constant_kv(1, none), constant_kv(5)], [1.0, 0.0])
    assert not fused.mask[2, 3] and fused.mask.sum() == B * T - 1
    assert fused.k[:, 2, :, 3].eq(0).all()


def test_masked_teachers_leave_no_nan_in_the_gradient():
    mask = torch.zeros(B, T, dtype=torch.bool)
    kv = constant_kv(float("nan"), mask)
    weights = torch.full((B, T, 1), 1.0, requires_grad=True)
    fuse_with_weights([kv], weights).k.sum().backward()
    assert weights.grad.eq(0).all()


def test_similarity_prefers_the_teacher_whose_prototype_is_near():
    prototypes = torch.eye(2, 6)
    query = prototypes[torch.tensor([0, 1, 1])]  # (B, C): one text per row
    kvs = [constant_kv(0), constant_kv(1)]
    fused, weights = fuse_kvs_similarity(kvs, query, prototypes, temperature=0.01)
    torch.testing.assert_close(weights, torch.eye(2)[[0, 1, 1]])
    expected = torch.tensor([0.0, 1.0, 1.0])[None, :, None, None, None]
    torch.testing.assert_close(fused.k, expected.expand_as(fused.k))
    # cosine 1 against 0 at temperature 1: e / (1 + e)
    soft = fuse_kvs_similarity(kvs, query, prototypes)
    assert float(soft.kv.k[0, 1, 0, 0, 0]) == pytest.approx(0.7310586, abs=1e-5)


def test_learnable_gives_the_router_a_gradient_until_detached():
    router = LearnableRouter(hidden_dim=6, num_teachers=2)
    kvs = [constant_kv(0), constant_kv(1)]
    query = torch.randn(B, T, 6)
    fused, weights = fuse_kvs_learnable(kvs, query, router)
    assert fused.k.eq(0.5).all()
    assert weights.shape == (B, T, 2) and weights.requires_grad
    fused.k.square().sum().backward()
    assert router.score.weight.grad.abs().sum() > 0
    assert not fused.detach().k.requires_grad


@pytest.mark.parametrize("layers", [2, 3])
def test_tensors_of_any_depth_come_back_whole_beside_the_weights(layers):
    """A tensor of two layers once came apart into two, with nothing said."""
    tensors = [torch.randn(layers, B, T, D) for _ in range(2)]
    query, prototypes = torch.randn(B, 6), torch.randn(2, 6)
    fused, weights = fuse_kvs_similarity(tensors, query, prototypes)
    assert (fused.shape, weights.shape) == ((layers, B, T, D), (B, 2))
    torch.testing.assert_close(fused, fuse_with_weights(tensors, weights))
    router = LearnableRouter(hidden_dim=6, num_teachers=2)
    fused, weights = fuse_kvs_learnable(tensors, query, router)
    torch.testing.assert_close(fused, fuse_kvs_fixed(tensors))
    torch.testing.assert_close(weights, router(query))


@pytest.mark.parametrize(
    ("kvs", "weights", "message"),
    [
        ([], None, "kvs_list is empty"),
        ([(1, 2)], None, r"kvs_list\[0\] is a tuple; give KV, or tensors"),
        ([torch.ones(B, T, D)] * 2, [1.0], "1 entries for 2 teachers"),
        ([torch.ones(B, T, D)] * 2, [1.0, -1.0], r"weights\[1\] is -1"),
        ([torch.ones(T, D)], None, r"shape \(4, 5\); give \(L, B, H, T, D\)"),
        (
            [torch.ones(B, T, D), torch.ones(B, T, D + 1)],
            None,
            r"kvs_list\[1\] is Tensor .*adapt heads",
        ),
    ],
)
def test_a_misfit_is_named(kvs, weights, message):
    with pytest.raises(ValueError, match=message):
        fuse_kvs_fixed(kvs, weights)


def test_weights_of_another_shape_are_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"shape \(3, 5\) for 2 teachers.*\(3, 4, 2\)"):
        fuse_with_weights([torch.ones(L, B, T, D)] * 2, torch.ones(3, 5))
