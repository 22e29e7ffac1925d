import torch

from teacher.adapt.rows import new_rows

ROWS = torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, -1.0]])


def test_rows_are_kept_averaged_and_where_nobody_stands_the_mean_of_all():
    made = new_rows(ROWS, [(2,), (0, 1), (1, 1, 0), ()])
    expected = [[5, -1], [2, 2], [7 / 3, 8 / 3], [3, 1]]
    torch.testing.assert_close(made, torch.tensor(expected))


def test_biases_go_as_rows_do():
    bias = torch.tensor([1.0, 2.0, 6.0])
    assert new_rows(bias, [(0, 2), (1,), ()]).tolist() == [3.5, 2.0, 3.0]


def test_one_piece_keeps_its_bits_in_any_type_and_means_are_taken_in_float32():
    rows = torch.randn(300, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    made = new_rows(rows, [(id_,) for id_ in range(299, -1, -1)] + [tuple(range(300))])
    assert made.dtype == torch.bfloat16 and torch.equal(made[:300], rows.flip(0))
    assert torch.equal(made[300], rows.float().mean(0).bfloat16())
