import pytest
import torch
from torch import nn

from align.calibration import CalibrationStats
from align.head_dim_adapter import MultiTeacherHeadDimAdapter, group_heads
from align.kv import KV


def stats_of(x, y):
    stats = CalibrationStats(x.shape[0], x.shape[2], y.shape[2])
    stats.update(x, y)
    return stats


def effective_rank(x):
    """Participation ratio of the covariance's eigenvalues, at most the width."""
    values = torch.linalg.eigvalsh(x.T.cov())
    return float(values.sum() ** 2 / values.square().sum())


def test_the_documented_adapter_takes_any_number_of_layers():
    adapter = MultiTeacherHeadDimAdapter([(768, 12), (1024, 16)], 512, 8)
    mask = torch.ones(2, 5, dtype=torch.bool)
    kvs = [
        KV(torch.randn(3, 2, 12, 5, 64), torch.randn(3, 2, 12, 5, 64), mask),
        KV(torch.randn(3, 2, 16, 5, 64), torch.randn(3, 2, 16, 5, 64), mask),
    ]
    for kv in adapter(kvs):
        assert kv.k.shape == kv.v.shape == (3, 2, 8, 5, 64)
        assert torch.equal(kv.mask, mask)


def test_eight_teachers_and_a_batch_without_tokens_pass_through():
    shapes = [(8 * heads, heads) for heads in range(1, 9)]
    adapter = MultiTeacherHeadDimAdapter(shapes, 12, 3, num_layers=2)
    for tokens in (0, 1):
        mask = torch.ones(2, tokens, dtype=torch.bool)
        kvs = [
            KV(*torch.randn(2, 2, 2, heads, tokens, width // heads), mask)
            for width, heads in shapes
        ]
        for kv in adapter(kvs):
            assert kv.k.shape == kv.v.shape == (2, 2, 3, tokens, 4)


def test_heads_are_averaged_in_groups():
    # four heads of size 1 to two: (0, 1) and (2, 3)
    x = torch.tensor([1.0, 3, 10, 30])
    assert (x @ group_heads(4, 4, 2, 2)).tolist() == [2, 20]


def test_heads_are_repeated_and_sizes_cut_or_padded():
    x = torch.tensor([1.0, 2, 3, 4])  # two heads of size 2
    assert (x @ group_heads(4, 2, 4, 4)).tolist() == [1, 1, 3, 3]  # cut to size 1
    assert (x @ group_heads(4, 2, 6, 2)).tolist() == [1, 2, 0, 3, 4, 0]  # padded


def test_head_counts_that_do_not_divide_share_the_middle():
    # three heads to two: [0, 1.5) and [1.5, 3) of the teacher's
    assert (torch.tensor([2.0, 4, 8]) @ group_heads(3, 3, 2, 2)).tolist() == [3, 6]


def test_keys_and_values_may_differ_in_width():
    adapter = MultiTeacherHeadDimAdapter([(8, 2, 12)], 6, 3, 2, student_v_dim=3)
    k, v = adapter([(torch.randn(2, 1, 4, 8), torch.randn(2, 1, 4, 12))])[0]
    assert k.shape == (2, 1, 4, 6) and v.shape == (2, 1, 4, 3)


def test_each_layer_has_its_own_map():
    adapter = MultiTeacherHeadDimAdapter([(2, 1)], 2, 1, num_layers=2)
    with torch.no_grad():
        adapter.weight_k[0][1] *= 3
        adapter.bias_k[0][0] += 5
    x = torch.ones(2, 1, 1, 2)
    assert adapter.adapt(0, x, x)[0].flatten().tolist() == [6, 6, 3, 3]


def test_half_precision_comes_back_in_half_precision():
    adapter = MultiTeacherHeadDimAdapter([(4, 2)], 2, 2)
    k, _ = adapter.adapt(0, *[torch.ones(1, 1, 1, 4, dtype=torch.bfloat16)] * 2)
    assert k.dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["pca", "procrustes", "ridge"])
def test_calibration_reports_and_sets_keys_and_values(method):
    torch.manual_seed(0)
    x = torch.randn(2, 500, 8) * 30 + 4
    y = x[..., :4] @ torch.randn(4, 4) + torch.randn(2, 500, 4)
    adapter = MultiTeacherHeadDimAdapter([(6, 2), (8, 2)], 4, 2, num_layers=2)
    untouched = adapter.weight_k[0].clone()
    report = adapter.calibrate(1, stats_of(x, y), stats_of(-x, 2 * y), method)
    assert set(report) == {"k_variance_kept", "v_variance_kept", "k_r2", "v_r2"}
    assert all(len(values) == 2 for values in report.values())
    assert all(0.4 < share < 0.6 for share in report["k_variance_kept"])  # 4 of 8
    k, v = adapter.adapt(1, x[:, None], -x[:, None])
    error = (k[:, 0] - y).square().mean((1, 2)) / y.var((1, 2))
    if method == "ridge":
        assert min(report["k_r2"]) > 0.9 and float(error.detach().max()) < 0.1
        torch.testing.assert_close(v[:, 0], 2 * k[:, 0], rtol=1e-3, atol=1e-2)
    else:
        torch.testing.assert_close(k[:, 0].std(1), y.std(1), rtol=1e-3, atol=1e-3)
    assert torch.equal(adapter.weight_k[0], untouched)


def test_keys_and_values_of_different_widths_calibrate_alike():
    torch.manual_seed(0)
    k, v = torch.randn(2, 300, 8), torch.randn(2, 300, 12)
    own_k, own_v = k[..., :6] * 3 + 1, v[..., :3] - 2
    adapter = MultiTeacherHeadDimAdapter([(8, 2, 12)], 6, 3, 2, student_v_dim=3)
    report = adapter.calibrate(0, stats_of(k, own_k), stats_of(v, own_v), "ridge")
    assert min(report["k_r2"]) > 0.99 and min(report["v_r2"]) > 0.99
    got_k, got_v = adapter.adapt(0, k[:, None], v[:, None])
    torch.testing.assert_close(got_k[:, 0], own_k, atol=0.1, rtol=0.1)
    torch.testing.assert_close(got_v[:, 0], own_v, atol=0.1, rtol=0.1)
    with pytest.raises(ValueError, match=r"stats_v is for .* \(2, 8, 6\)"):
        adapter.calibrate(0, stats_of(k, own_k), stats_of(k, own_k), "ridge")


def test_a_function_calibrates_too():
    def zero(stats):
        shape = (stats.num_layers, stats.dim_x, stats.dim_y)
        return torch.zeros(shape), stats.mean_y

    x, y = torch.randn(1, 50, 4), torch.randn(1, 50, 2) + 3
    adapter = MultiTeacherHeadDimAdapter([(4, 2)], 2, 2)
    report = adapter.calibrate(0, stats_of(x, y), stats_of(x, y), zero)
    assert report["k_variance_kept"] == [0.0]
    assert report["k_r2"] == pytest.approx([0.0], abs=1e-9)
    out = adapter.adapt(0, x[:, None], x[:, None])[0]
    torch.testing.assert_close(out[0, 0, 0], y.mean(1)[0])


def test_the_outcome_s_gradient_reaches_the_map():
    adapter = MultiTeacherHeadDimAdapter([(4, 2)], 2, 2)
    x = torch.randn(1, 1, 3, 4)
    sum(part.sum() for part in adapter.adapt(0, x, x)).backward()
    for parameter in adapter.parameters():
        assert parameter.grad is not None and bool(parameter.grad.any())


def test_keys_and_values_come_apart_or_joined_by_layer_or_alone():
    adapter = MultiTeacherHeadDimAdapter([(8, 2, 12)], 6, 3, student_v_dim=3)
    k, v = torch.randn(4, 1, 2, 5, 4), torch.randn(4, 1, 2, 5, 6)  # (L, B, H, T, D)
    (ks,), (vs,) = adapter([k], [v])
    assert (ks.shape, vs.shape) == ((4, 1, 3, 5, 2), (4, 1, 3, 5, 1))
    (one_k,), (one_v,) = adapter([k[2]], [v[2]])
    assert torch.equal(one_k, ks[2]) and torch.equal(one_v, vs[2])
    joined = [x.transpose(2, 3).flatten(3) for x in (k, v)]
    (flat_k,), (flat_v,) = adapter([joined[0]], [joined[1]])
    assert torch.equal(flat_k, ks.transpose(2, 3).flatten(3))
    assert torch.equal(flat_v, vs.transpose(2, 3).flatten(3))
    with pytest.raises(ValueError, match="1 teachers' keys and 2 teachers' values"):
        adapter([k], [v, v])
    with pytest.raises(ValueError, match="2 teachers' KV for an adapter of 1"):
        adapter([k, k], [v, v])


def test_a_single_head_may_be_a_layer_of_a_cache_or_layers_joined():
    adapter = MultiTeacherHeadDimAdapter([(4, 1)], 6, 3)
    x = torch.randn(2, 1, 5, 4)
    (apart,), _ = adapter([x], [x])  # two texts, as a cache has them
    assert apart.shape == (2, 3, 5, 2)
    ((joined, _),) = adapter([(x, x)])  # two layers, as `adapt` takes them
    assert torch.equal(joined, apart.transpose(1, 2).flatten(2)[:, None])


def pull(student, adapter, teacher, base, detach):
    """Train a student (and the adapter, unless detached) by their distance."""
    trained = [*student.parameters(), *([] if detach else adapter.parameters())]
    optimiser = torch.optim.SGD(trained, lr=0.05)
    for _ in range(500):
        target = adapter.adapt(0, teacher, teacher)[0][0, 0]
        target = target.detach() if detach else target
        loss = (student(base) - target).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return student(base).detach()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pca", "procrustes"])
def test_an_adapter_trained_by_the_distance_collapses_and_a_calibrated_one_does_not(
    method,
):
    torch.manual_seed(0)
    base = torch.randn(400, 6)
    teacher = base @ torch.randn(6, 8) / 6**0.5 + 0.6 * torch.randn(400, 8)
    features = {}
    for detach in (True, False):
        torch.manual_seed(1)
        student = nn.Linear(6, 4)
        before = student(base).detach()
        adapter = MultiTeacherHeadDimAdapter([(8, 2)], 4, 2)
        stats = stats_of(teacher[None], before[None])
        adapter.calibrate(0, stats, stats, method)
        features[detach] = pull(student, adapter, teacher[None, None], base, detach)
    assert float(features[True].std() / before.std()) > 0.5
    assert effective_rank(features[True]) > 0.7 * effective_rank(before)
    assert float(features[False].std(0).max() / before.std()) < 0.05


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"teacher_dims\[1\]: 7 heads do not divide"):
        MultiTeacherHeadDimAdapter([(4, 2), (8, 7)], 4, 2)
    with pytest.raises(ValueError, match="student_dim: 3 heads do not divide width 4"):
        MultiTeacherHeadDimAdapter([(4, 2)], 4, 3)
    with pytest.raises(ValueError, match=r"teacher_dims\[0\] is \(4,\)"):
        MultiTeacherHeadDimAdapter([(4,)], 4, 2)
    adapter = MultiTeacherHeadDimAdapter([(4, 2)], 2, 2, num_layers=3)
    x = torch.zeros(2, 1, 1, 4)
    with pytest.raises(ValueError, match=r"teachers\[0\]: k has shape \(2, 1, 1, 4\)"):
        adapter.adapt(0, x, x)
    with pytest.raises(ValueError, match="2 teachers' KV for an adapter of 1"):
        adapter([(x, x), (x, x)])
    stats = stats_of(torch.randn(1, 9, 4), torch.randn(1, 9, 2))
    with pytest.raises(ValueError, match=r"stats_k is for .* but the adapter has"):
        adapter.calibrate(0, stats, stats)
    with pytest.raises(ValueError, match="unknown calibration 'pac'; valid are pca"):
        adapter.calibrate(0, stats, stats, "pac")
