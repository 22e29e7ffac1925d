import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from align.calibration import (
    METHODS,
    CalibrationStats,
    calibrate_pca,
    calibrate_procrustes,
    calibrate_ridge,
    r_squared,
    variance_kept,
)


def features(layers=2, n=400, dim_x=6, dim_y=4, seed=0):
    """Paired features with loud channels, offsets, and a linear relation."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(layers, n, dim_x, generator=g, dtype=torch.float64)
    mix = torch.randn(layers, dim_x, dim_x, generator=g, dtype=torch.float64)
    x = x @ mix * torch.logspace(-2, 3, dim_x, dtype=torch.float64) + 50
    to_y = torch.randn(layers, dim_x, dim_y, generator=g, dtype=torch.float64)
    y = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) @ to_y
    y = y + 0.5 * torch.randn(y.shape, generator=g, dtype=torch.float64)
    return x, y * torch.tensor([1.0, 100, 0.01, 3])[:dim_y] - 7


def stats_of(x, y, pieces=1):
    stats = CalibrationStats(x.shape[0], x.shape[2], y.shape[2])
    for x_part, y_part in zip(x.chunk(pieces, 1), y.chunk(pieces, 1), strict=True):
        stats.update(x_part, y_part)
    return stats


@pytest.mark.parametrize("pieces", [1, 7])
def test_sums_in_pieces_equal_numpy_on_the_whole(pieces):
    x, y = features()
    stats = stats_of(x, y, pieces)
    assert stats.n == 400
    for layer in range(2):
        joint = np.cov(x[layer].T, y[layer].T, bias=True)
        np.testing.assert_allclose(stats.cov_x[layer], joint[:6, :6], rtol=1e-9)
        np.testing.assert_allclose(stats.cov_xy[layer], joint[:6, 6:], rtol=1e-7)
        np.testing.assert_allclose(stats.std_y[layer], y[layer].numpy().std(0))
        np.testing.assert_allclose(stats.mean_x[layer], x[layer].numpy().mean(0))


def test_a_large_offset_loses_no_precision():
    x, y = features()
    far = stats_of(x + 1e7, y + 1e7, 5)
    near = stats_of(x, y, 5)
    torch.testing.assert_close(far.std_y, near.std_y, rtol=1e-6, atol=0)


def test_constant_channels_and_layers_can_be_divided_by():
    x, y = features()
    x[:, :, 2] = 4.0
    y[1] = 123456.789
    stats = stats_of(x, y, 3)
    typical = stats.std_x[0].mean()
    assert 0 < stats.std_x[0, 2] < 1e-5 * typical
    assert stats.std_y[1].tolist() == [1.0] * 4
    for method in METHODS.values():
        weight, bias = method(stats)
        assert bool(torch.isfinite(weight).all()) and bool(torch.isfinite(bias).all())
        # the silent channel does not become loud
        moved = (x[0, :, 2:3] + 1e-9) * weight[0, 2]
        assert float(moved.std()) < 1e-3


def test_pca_equals_sklearn_on_standardised_features():
    x, y = features()
    stats = stats_of(x, y)
    weight, bias = calibrate_pca(stats)
    for layer in range(2):
        scaled = StandardScaler().fit_transform(x[layer].numpy())
        theirs = PCA(4, whiten=True).fit(scaled)
        expected = theirs.transform(scaled) * np.sqrt(400 / 399)  # n, not n - 1
        ours = (x[layer] @ weight[layer] + bias[layer] - stats.mean_y[layer]).numpy()
        ours = ours / stats.std_y[layer].numpy()
        signs = np.sign((ours * expected).sum(0))  # a component has no sign
        np.testing.assert_allclose(ours, expected * signs, atol=1e-6)
        np.testing.assert_allclose(
            variance_kept(stats, weight)[layer],
            theirs.explained_variance_ratio_.sum(),
            rtol=1e-6,
        )


def test_procrustes_equals_scipy_on_whitened_features():
    x, y = features(dim_x=4)
    stats = stats_of(x, y)
    weight, bias = calibrate_procrustes(stats)
    for layer in range(2):
        scaled = StandardScaler().fit_transform(x[layer].numpy())
        white = PCA(4, whiten=True).fit_transform(scaled) * np.sqrt(400 / 399)
        target = StandardScaler().fit_transform(y[layer].numpy())
        rotation, _ = scipy.linalg.orthogonal_procrustes(white, target)
        expected = white @ rotation * y[layer].numpy().std(0) + y[layer].numpy().mean(0)
        ours = x[layer] @ weight[layer] + bias[layer]
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_unwhitened_components_keep_their_ratios_and_equal_sklearn_s():
    x, y = features()
    stats = stats_of(x, y)
    weight, bias = calibrate_pca(stats, whiten=False)
    for layer in range(2):
        scaled = StandardScaler().fit_transform(x[layer].numpy())
        theirs = PCA(4).fit(scaled)
        expected = theirs.transform(scaled)
        expected = expected / np.sqrt((expected**2).mean())  # of mean variance 1
        ours = (x[layer] @ weight[layer] + bias[layer] - stats.mean_y[layer]).numpy()
        ours = ours / stats.std_y[layer].numpy()
        signs = np.sign((ours * expected).sum(0))
        np.testing.assert_allclose(ours, expected * signs, atol=1e-6)


def test_unwhitened_procrustes_is_scipy_s_rotation_with_one_scale():
    x, y = features(dim_x=4)
    stats = stats_of(x, y)
    weight, bias = calibrate_procrustes(stats, whiten=False)
    for layer in range(2):
        scaled = StandardScaler().fit_transform(x[layer].numpy())
        target = StandardScaler().fit_transform(y[layer].numpy())
        rotation, _ = scipy.linalg.orthogonal_procrustes(scaled, target)
        ours = (x[layer] @ weight[layer] + bias[layer] - stats.mean_y[layer]).numpy()
        ours = ours / stats.std_y[layer].numpy()
        np.testing.assert_allclose(ours, scaled @ rotation, atol=1e-6)


def test_the_state_does_not_grow_with_the_sample():
    x, y = features(n=2000)

    def size(stats):
        held = [value for value in vars(stats).values() if torch.is_tensor(value)]
        return sum(value.untyped_storage().nbytes() for value in held)

    small, large = stats_of(x[:, :10], y[:, :10]), stats_of(x, y, pieces=200)
    assert (small.n, large.n) == (10, 2000)
    assert size(small) == size(large)
    assert all(not isinstance(v, list | dict | tuple) for v in vars(large).values())


def test_procrustes_undoes_a_rotation():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3000, 5, generator=g, dtype=torch.float64)
    white = stats_of(x, x)
    x = (x - white.mean_x) @ torch.linalg.inv(torch.linalg.cholesky(white.cov_x[0]).T)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=g, dtype=torch.float64))
    stats = stats_of(x, x @ turn)
    weight, bias = calibrate_procrustes(stats)
    torch.testing.assert_close(x @ weight + bias, x @ turn, atol=1e-6, rtol=1e-6)


def test_ridge_equals_sklearn_on_standardised_features():
    x, y = features()
    stats = stats_of(x, y)
    weight, bias = calibrate_ridge(stats, strength=1e-2)
    for layer in range(2):
        scaled = StandardScaler().fit_transform(x[layer].numpy())
        theirs = Ridge(alpha=400 * 1e-2).fit(scaled, y[layer].numpy())
        ours = x[layer] @ weight[layer] + bias[layer]
        np.testing.assert_allclose(ours, theirs.predict(scaled), rtol=1e-6, atol=1e-6)
        from sklearn.metrics import r2_score

        expected = r2_score(y[layer].numpy(), theirs.predict(scaled))
        np.testing.assert_allclose(r_squared(stats, weight, bias)[layer], expected)


@pytest.mark.parametrize("method", ["pca", "procrustes"])
def test_mapped_features_have_the_student_s_mean_and_spread(method):
    x, y = features()
    stats = stats_of(x, y)
    weight, bias = METHODS[method](stats)
    mapped = x @ weight + bias[:, None]
    torch.testing.assert_close(mapped.mean(1), stats.mean_y, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mapped.std(1, correction=0), stats.std_y)


@pytest.mark.parametrize("method", METHODS)
def test_a_loud_channel_does_not_decide(method):
    x, y = features()
    loud = x.clone()
    loud[..., 1] *= 1e4
    quiet_map, loud_map = (METHODS[method](stats_of(v, y)) for v in (x, loud))
    torch.testing.assert_close(
        x @ quiet_map[0] + quiet_map[1][:, None],
        loud @ loud_map[0] + loud_map[1][:, None],
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_narrower_teacher_fills_the_rest_with_the_student_s_mean():
    x, y = features(dim_x=2)
    stats = stats_of(x, y)
    weight, bias = calibrate_pca(stats)
    mapped = x @ weight + bias[:, None]
    torch.testing.assert_close(
        mapped[:, :, 2:], stats.mean_y[:, None, 2:].expand(-1, 400, -1)
    )
    torch.testing.assert_close(mapped[..., :2].std(1, correction=0), stats.std_y[:, :2])
    torch.testing.assert_close(variance_kept(stats, weight), torch.ones(2).double())
    weight, bias = calibrate_procrustes(stats)
    assert bool((r_squared(stats, weight, bias) > 0).all())


def test_a_teacher_of_low_rank_is_not_blown_up():
    x, y = features()
    x[..., 3:] = x[..., :3] @ torch.ones(3, 3).double()
    stats = stats_of(x, y)
    weight, bias = calibrate_pca(stats)
    mapped = x @ weight + bias[:, None]
    assert float(((mapped - stats.mean_y[:, None]) / stats.std_y[:, None]).std()) < 1.1


def test_mistakes_are_named():
    stats = CalibrationStats(1, 2, 3)
    with pytest.raises(ValueError, match="no calibration pairs yet"):
        _ = stats.mean_x
    with pytest.raises(ValueError, match=r"y has shape \(1, 5, 2\); give \(1, N, 3\)"):
        stats.update(torch.zeros(1, 5, 2), torch.zeros(1, 5, 2))
    with pytest.raises(ValueError, match="x holds values that are not finite"):
        stats.update(torch.full((1, 1, 2), torch.nan), torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="layers and widths are at least 1"):
        CalibrationStats(0, 2, 3)
    with pytest.raises(ValueError, match="ridge strength must be > 0"):
        calibrate_ridge(stats, 0)
    stats.update(torch.zeros(1, 0, 2), torch.zeros(1, 0, 3))
    assert stats.n == 0


def test_statistics_both_ways_are_those_of_each_way_alone():
    x, y = features()
    forth, back = CalibrationStats(2, 6, 4), CalibrationStats(2, 4, 6)
    for x_part, y_part in zip(x.chunk(3, 1), y.chunk(3, 1), strict=True):
        forth.update(x_part, y_part, mirrored=back)
    for both, alone in ((forth, stats_of(x, y, 3)), (back, stats_of(y, x, 3))):
        assert both.n == alone.n
        for name in ("mean_x", "mean_y", "cov_x", "cov_xy", "var_y"):
            torch.testing.assert_close(getattr(both, name), getattr(alone, name))


def test_a_layer_that_never_varies_is_told_from_one_that_does():
    stats = CalibrationStats(3, 2, 1)
    varying = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    constant = torch.tensor([[0.1, -300.0]]).expand(40, 2)
    x = torch.stack([varying, constant, torch.zeros(40, 2)])
    stats.update(x[:, :15], torch.zeros(3, 15, 1))
    stats.update(x[:, 15:], torch.zeros(3, 25, 1))
    assert stats.constant_x.tolist() == [False, True, True]
