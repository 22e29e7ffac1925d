import torch

from teacher.capture.attention_rows import attention_rows


def test_rows_are_float32_where_products_are_bfloat16():
    chance = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 9, 16, generator=chance)
    key = torch.randn(2, 2, 9, 16, generator=chance)
    rows = torch.tensor([[0, 4], [8, 1]])
    bias = torch.zeros(2, 1, 2, 9)
    expected = attention_rows(query, key, bias, {}, rows)
    with torch.autocast("cpu", torch.bfloat16):
        shares = attention_rows(query, key, bias, {}, rows)
    assert torch.equal(shares, expected)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 4, 2))
