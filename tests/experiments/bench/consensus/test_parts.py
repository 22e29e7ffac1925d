"""What is private to a teacher, beside numpy's SVD."""

import numpy as np
import torch

from align.consensus import fit_consensus
from experiments.bench.consensus.compare import sums_of
from experiments.bench.consensus.parts import principal, private
from tests.align.test_consensus import WIDTHS, centred, drawn


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
