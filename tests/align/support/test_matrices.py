"""Matrices as linear maps, wherever a parameter holds them."""

import torch

from align.support.matrices import Layout, layouts


def test_split_gives_the_maps_and_join_puts_them_back():
    lying = torch.arange(12.0).view(2, 6)  # (in, out)
    rows = (torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5]))
    layout = Layout(on_side=True, maps=rows)
    even, odd = layout.split(lying)
    assert even.tolist() == [[0, 6], [2, 8], [4, 10]]
    assert odd.tolist() == [[1, 7], [3, 9], [5, 11]]
    layout.join([even, -odd], lying)
    assert lying.tolist() == [[0, -1, 2, -3, 4, -5], [6, -7, 8, -9, 10, -11]]
    whole = Layout(on_side=True)
    assert whole.split(lying)[0].tolist() == lying.T.tolist()
    whole.join([lying.T + 1], lying)
    assert lying[0].tolist() == [1, 0, 3, -2, 5, -4]


def test_a_gates_layer_is_two_maps_and_a_plain_wide_one_is_not():
    class Gated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.both = torch.nn.Linear(3, 4), torch.nn.Linear(4, 6)

    gated = Gated()
    plain = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 4))
    lie = layouts(torch.nn.ModuleList([gated, plain]), {})
    maps = [rows.tolist() for rows in lie[id(gated.both.weight)].maps]
    assert maps == [[0, 1, 2], [3, 4, 5]]
    others = [gated.down, *plain]
    assert all(lie[id(layer.weight)].is_one_map for layer in others)
