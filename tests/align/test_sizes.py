"""Sizes of keys and values."""

from align.sizes import Sizes


def test_widths_are_all_heads_of_one_layer():
    sizes = Sizes(layers=5, heads=3, k_dim=4, v_dim=6, hidden_size=48)
    assert (sizes.k_width, sizes.v_width, sizes.width) == (12, 18, 30)
