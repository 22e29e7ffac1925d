import torch

from align.products.autocast import without_autocast


def test_products_are_as_wide_as_what_is_multiplied():
    x = torch.randn(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with without_autocast(x):
            assert torch.equal(x @ x, torch.matmul(x, x)) and (x @ x).dtype == x.dtype
        assert (x @ x).dtype == torch.bfloat16
