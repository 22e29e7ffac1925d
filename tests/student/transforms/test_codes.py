"""Whole numbers and scales of rounded weights are those weights."""

import pytest
import torch

from student.transforms.codes import codes_of
from student.transforms.fake_quant import Grid


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("group", "clip"), [(0, 1.0), (8, 1.0), (8, 0.6)])
def test_a_rounded_matrix_is_found_again_bit_for_bit(bits, group, clip):
    """Scales of the largest weight, and smaller ones that clip, as learned ones do."""
    weight = torch.randn(24, 32, generator=torch.Generator().manual_seed(bits))
    weight[5] = 0
    grid = Grid(bits=bits, group=group or 32)
    rows = grid.rows(weight)
    scales = grid.scales_of(rows) * clip
    rounded = grid.rounded(rows, scales).view(24, 32)
    codes, steps = codes_of(rounded, bits, group)
    assert (codes.dtype, steps.shape) == (torch.int8, (24, 32 // (group or 32)))
    assert -(2 ** (bits - 1)) <= int(codes.min()) < int(codes.max()) < 2 ** (bits - 1)
    products = codes.view(rows.shape).float() * steps.view(-1, 1)
    assert torch.equal(products.view(24, 32), rounded)


def test_what_is_on_no_grid_of_so_few_values_has_none():
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    assert codes_of(weight, 8) is None
    grid = Grid(bits=4, group=32)
    rounded = grid.rounded(weight, grid.scales_of(weight))
    assert codes_of(rounded, 4) is not None
    assert codes_of(rounded, 3) is None
    assert codes_of(torch.lerp(weight, rounded, 0.5), 4) is None
    assert codes_of(rounded.bfloat16(), 4) is None  # rounded once more
