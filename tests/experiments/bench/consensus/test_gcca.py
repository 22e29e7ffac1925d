"""What teachers share, against eigenvectors of N x N matrices and numpy's SVD."""

import numpy as np
import pytest
import torch

from align.calibration import CalibrationStats
from experiments.bench.consensus.compare import sums_of
from experiments.bench.consensus.gcca import (
    agreement,
    fit_consensus,
    principal,
    private,
)

WIDTHS = (4, 3, 5)


def drawn(n=300, widths=WIDTHS, layers=2, seed=0, shared=2, noise=0.3):
    """Teachers that mix ``shared`` signals of all with some of their own: (L, N, C)."""
    g = torch.Generator().manual_seed(seed)
    maps = torch.Generator().manual_seed(99)

    def normal(*size, by=g):
        return torch.randn(size, generator=by, dtype=torch.float64)

    signal = normal(layers, n, shared)
    parts = []
    for width in widths:
        mix = normal(layers, width, width, by=maps)
        inside = normal(layers, n, width)
        inside[:, :, :shared] = signal + noise * inside[:, :, :shared]
        parts.append(inside @ mix + normal(width, by=maps) * 10)
    return torch.cat(parts, 2), signal


def centred(x):
    return x - x.mean(1, keepdim=True)


def unsigned(z):
    """Directions with the first token's number above 0."""
    return z * z[:, :1].sign()


@pytest.mark.parametrize("strength", [0.0, 1e-2, 1.0])
def test_directions_are_the_eigenvectors_of_the_teachers_smoothers(strength):
    x, _ = drawn(n=40)
    consensus = fit_consensus(sums_of(x), WIDTHS, strength)
    for layer in range(2):
        plain = x[layer].numpy()
        plain = (plain - plain.mean(0)) / plain.std(0)
        hats = []
        for part in np.split(plain, np.cumsum(WIDTHS)[:-1], 1):
            inside = part.T @ part + 40 * strength * np.eye(part.shape[1])
            hats.append(part @ np.linalg.inv(inside) @ part.T)  # N x N
        values, vectors = np.linalg.eigh(sum(hats))
        leading = vectors[:, ::-1][:, : sum(WIDTHS)] * np.sqrt(40)
        np.testing.assert_allclose(
            consensus.shares[layer], values[::-1][: sum(WIDTHS)] / 3, atol=1e-9
        )
        z = (centred(x) @ consensus.weight)[layer].numpy()
        np.testing.assert_allclose(np.abs(z), np.abs(leading), atol=1e-6)
        parts = centred(x)[layer].split(WIDTHS, 1)
        for part, hat, ours in zip(parts, hats, consensus.parts, strict=True):
            np.testing.assert_allclose(part @ ours[layer], hat @ z, atol=1e-8)


def test_of_two_teachers_they_are_canonical_correlations_by_hand_and_by_svd():
    x = torch.tensor([[[1.0, 1], [-1, -1], [1, 0], [-1, 0]]], dtype=torch.float64)
    stats = sums_of(x)  # cov 1/2, variances 1 and 1/2
    consensus = fit_consensus(stats, (1, 1), 0)
    half = 0.5**0.5
    expected = torch.tensor([[(1 + half) / 2, (1 - half) / 2]], dtype=torch.float64)
    torch.testing.assert_close(consensus.shares, expected)
    torch.testing.assert_close(agreement(consensus, stats)[0, 0].item(), half)

    x, _ = drawn(widths=(4, 3))
    stats = sums_of(x)
    consensus = fit_consensus(stats, (4, 3), 0)
    for layer in range(2):
        teachers = centred(x)[layer].split((4, 3), 1)
        bases = [np.linalg.qr(part.numpy())[0] for part in teachers]
        rho = np.linalg.svd(bases[0].T @ bases[1])[1]
        np.testing.assert_allclose(agreement(consensus, stats)[layer, :3], rho)
        np.testing.assert_allclose(consensus.shares[layer, :3], (1 + rho) / 2)


def test_signals_that_all_teachers_hold_are_found_and_agree_on_other_texts():
    x, _ = drawn(n=2000)
    consensus = fit_consensus(sums_of(x), WIDTHS)
    held, held_signal = drawn(n=1000, seed=1)
    agreed = agreement(consensus, sums_of(held))
    assert (agreed[:, :2] > 0.85).all()
    assert (agreed[:, 2:4].abs() < 0.2).all()
    z = centred(held) @ consensus.weight[:, :, :2]
    for layer in range(2):
        plain, shared = z[layer].numpy(), held_signal[layer].numpy()
        left = shared - plain @ np.linalg.lstsq(plain, shared, rcond=None)[0]
        assert left.var() < 0.1 * shared.var()


def test_an_invertible_map_of_a_teacher_changes_nothing_without_a_penalty():
    x, _ = drawn()
    before = fit_consensus(sums_of(x), WIDTHS, 0)
    maps = [torch.linalg.qr(torch.randn(w, w).double())[0] for w in WIDTHS]
    scaled = [m * torch.logspace(-2, 2, len(m)).double() for m in maps]
    parts = zip(x.split(WIDTHS, 2), scaled, strict=True)
    turned = torch.cat([part @ m + 3 for part, m in parts], 2)
    after = fit_consensus(sums_of(turned), WIDTHS, 0)
    torch.testing.assert_close(after.shares, before.shares)
    torch.testing.assert_close(
        unsigned(centred(turned) @ after.weight),
        unsigned(centred(x) @ before.weight),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(
        agreement(after, sums_of(turned)), agreement(before, sums_of(x))
    )
    # With one, it does.
    strong, other = (fit_consensus(sums_of(y), WIDTHS, 1.0) for y in (x, turned))
    assert (strong.shares - other.shares).abs().max() > 1e-3


def test_the_order_of_teachers_does_not_matter():
    x, _ = drawn()
    parts = x.split(WIDTHS, 2)
    before = fit_consensus(sums_of(x), WIDTHS)
    other = torch.cat([parts[2], parts[0], parts[1]], 2)
    after = fit_consensus(sums_of(other), (5, 4, 3))
    torch.testing.assert_close(after.shares, before.shares)
    torch.testing.assert_close(
        unsigned(centred(other) @ after.weight), unsigned(centred(x) @ before.weight)
    )
    torch.testing.assert_close(
        agreement(after, sums_of(other)), agreement(before, sums_of(x))
    )


@pytest.mark.parametrize("strength", [0.0, 1e-2])
def test_channels_that_stand_still_or_repeat_each_other_add_nothing(strength):
    x, _ = drawn()
    still = torch.full((2, 300, 1), 7.0).double()
    wider = torch.cat([x, still], 2)
    before = fit_consensus(sums_of(x), WIDTHS, strength)
    after = fit_consensus(sums_of(wider), (4, 3, 6), strength)
    torch.testing.assert_close(after.shares[:, :12], before.shares)
    assert (after.shares[:, 12:] == 0).all()
    assert (agreement(after, sums_of(wider))[:, 12:] == 0).all()

    twice = torch.cat([x[:, :, :1], x], 2)
    repeated = fit_consensus(sums_of(twice), (5, 3, 5), 0)
    plain = fit_consensus(sums_of(x), WIDTHS, 0)
    torch.testing.assert_close(repeated.shares[:, :12], plain.shares)
    assert (repeated.shares[:, 12:] < 1e-6).all()
    assert (repeated.weight.isfinite()).all()


def test_layers_of_nothing_but_constants_share_nothing():
    consensus = fit_consensus(sums_of(torch.full((1, 50, 12), 3.0)), WIDTHS)
    assert (consensus.shares == 0).all() and (consensus.weight == 0).all()
    assert (agreement(consensus, sums_of(drawn(layers=1)[0])) == 0).all()


def test_fewer_tokens_than_channels_agree_on_themselves_alone():
    g = torch.Generator().manual_seed(0)
    few, many = (torch.randn(1, n, 27, generator=g).double() for n in (10, 4000))
    loose = fit_consensus(sums_of(few), (12, 15), 0)
    torch.testing.assert_close(loose.shares[0, :9], torch.ones(9).double())
    assert (loose.shares[0, 18:] == 0).all()  # 9 dimensions of each
    assert agreement(loose, sums_of(many)).abs().max() < 0.15
    held = fit_consensus(sums_of(few), (12, 15), 1.0)
    assert held.shares[0, 0] < 0.95 and held.weight.isfinite().all()


def test_components_are_those_of_numpy_of_one_size():
    x, _ = drawn()
    for maps, part in zip(
        principal(sums_of(x), WIDTHS), centred(x).split(WIDTHS, 2), strict=True
    ):
        standard = part[0].numpy() / part[0].numpy().std(0)
        left, _, _ = np.linalg.svd(standard, full_matrices=False)
        made = part[0].numpy() @ maps[0].numpy()
        np.testing.assert_allclose(np.abs(made), np.abs(left) * 300**0.5, atol=1e-6)


def test_what_is_private_is_of_one_teacher_and_unlike_its_guesses():
    x, signal = drawn(n=3000)
    stats = sums_of(x)
    consensus = fit_consensus(stats, WIDTHS)
    teachers = centred(x).split(WIDTHS, 2)
    parts = private(consensus, stats, 2)
    for teacher, maps, guess in zip(teachers, parts, consensus.parts, strict=True):
        alone, shared = teacher @ maps, teacher @ guess[:, :, :2]
        crossed = (alone.mT @ shared / len(x[0])).abs()
        assert crossed.max() < 1e-8
        width = teacher.shape[2]
        spread = alone.square().mean(1)
        ones = torch.ones(2, width - 2).double()
        torch.testing.assert_close(spread[:, : width - 2], ones)
        assert (spread[:, width - 2 :] == 0).all()
        known = np.corrcoef(alone[0, :, : width - 2].T, signal[0].T)[: width - 2, -2:]
        assert np.abs(known).max() < 0.35  # but for noise, what all say is gone
    for left, every in zip(
        private(consensus, stats, 0), principal(stats, WIDTHS), strict=True
    ):
        torch.testing.assert_close(left, every)


def test_nothing_is_left_where_all_is_shared():
    x, _ = drawn(widths=(3, 3))
    stats = sums_of(x)
    for maps in private(fit_consensus(stats, (3, 3), 0), stats, 6):
        assert (maps == 0).all()


def test_widths_and_strength_are_checked():
    stats = CalibrationStats(1, 6, 1)
    with pytest.raises(ValueError, match="two or more teachers with 6 channels"):
        fit_consensus(stats, (6,))
    with pytest.raises(ValueError, match=r"widths \[3, 4\]"):
        fit_consensus(stats, (3, 4))
    with pytest.raises(ValueError, match="strength must be >= 0"):
        fit_consensus(stats, (3, 3), -1)
