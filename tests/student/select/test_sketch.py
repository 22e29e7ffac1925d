"""Percentiles of the last steps beside NumPy's, in counts that add up exactly."""

import numpy as np
import pytest
import torch

from student.select.sketch import ACCURACY, BUCKETS, RunningSketch, bucket_of


def noted(values, cuts=1, groups=1, steps=1, total=list):
    """A sketch that has counted (S, N) values in so many passes a step."""
    sketch = RunningSketch(groups)
    for step in range(steps):
        for chunk in values[step].chunk(cuts):
            group = torch.arange(len(chunk)) % groups
            sketch.note(chunk, group, step=step, total=total)
    return sketch


@pytest.mark.parametrize("scale", [1e-2, 1.0, 200.0])
def test_percentiles_are_numpys_to_the_stated_accuracy(scale):
    values = scale * torch.randn(1, 5000, generator=torch.Generator().manual_seed(1))
    sketch = noted(values.double())
    for share in (0.0, 0.05, 0.3, 0.5, 0.77, 0.9, 1.0):
        exact = np.quantile(values.double().numpy(), share, method="inverted_cdf")
        got = float(sketch.quantile(share, 1))
        assert abs(got - exact) <= ACCURACY * abs(exact) + 1e-3, share
    mean, deviation = (float(x) for x in sketch.moments(1))
    assert mean == pytest.approx(values.numpy().mean(), abs=0.01 * scale)
    assert deviation == pytest.approx(values.numpy().std(), rel=0.01)


def test_what_is_counted_does_not_depend_on_passes_or_on_the_order():
    draw = torch.Generator().manual_seed(2)
    values = torch.rand(3, 64, generator=draw)
    whole, cut = noted(values, steps=3), noted(values.flip(1), cuts=4, steps=3)
    for name, counts in whole.state_dict().items():
        assert torch.equal(counts, cut.state_dict()[name]), name


def test_two_processes_have_one_sketch():
    values = torch.rand(1, 64, generator=torch.Generator().manual_seed(3))
    calls = []
    noted(values[:, 1::2], total=lambda x: calls.append(list(x)) or list(x))
    both = noted(values[:, ::2], total=lambda x: np.add(x, calls[0]).tolist())
    assert torch.equal(both.waiting, noted(values).waiting)


def test_a_step_counts_from_the_next_one_on_and_fades():
    sketch = RunningSketch(2)
    assert sketch.quantile(0.5, 0).isnan().all()
    first = torch.tensor([1.0, 1.0, 3.0, torch.nan, torch.inf])
    groups = torch.tensor([0, 0, 0, 1, 1])
    sketch.note(first, groups, step=0, total=list)
    assert sketch.quantile(0.5, 0).isnan().all()  # of the same step
    middle = sketch.quantile(0.5, 1)
    assert float(middle[0]) == pytest.approx(1.0, rel=ACCURACY)
    assert middle[1].isnan()  # of this group only what is not finite
    again = RunningSketch(2)
    again.load_state_dict(sketch.state_dict())
    for each in (sketch, again):  # 0.9 of three, and two new ones: 2.7 of 4.7 places
        each.note(torch.tensor([9.0, 9.0]), torch.tensor([0, 0]), step=1, total=list)
        cut = 0.9 * 3 / (0.9 * 3 + 2)
        assert float(each.quantile(cut - 0.01, 2)[0]) == pytest.approx(3, rel=ACCURACY)
        assert float(each.quantile(cut + 0.01, 2)[0]) == pytest.approx(9, rel=ACCURACY)
    assert torch.equal(sketch.counts, again.counts)


def test_buckets_ascend_with_numbers():
    size = torch.logspace(-4, 4, 4000, dtype=torch.float64)
    numbers = torch.cat([-size.flip(0), torch.zeros(1), size])
    buckets = bucket_of(numbers)
    assert (buckets.diff() >= 0).all()
    assert buckets[0] == 0 and buckets[-1] == BUCKETS - 1
    assert bucket_of(torch.tensor([0.0, 1e-9, -1e-9])).unique().numel() == 1
