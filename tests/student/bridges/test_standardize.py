import torch

from student.bridges.standardize import Standardizer


def test_it_starts_as_the_identity():
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(Standardizer(2, 5)(x), x)


def test_fitted_features_have_mean_zero_and_variance_one_per_layer_and_channel():
    torch.manual_seed(0)
    scale = torch.tensor([1e-3, 1.0, 1e3])
    x = torch.randn(2, 10, 20, 3) * scale + 7 * scale
    flat = x.view(2, -1, 3)
    unit = Standardizer(2, 3)
    unit.fit(flat.mean(1).double(), flat.std(1, correction=0).double())
    out = unit(x).view(2, -1, 3)
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std(1, correction=0), torch.ones(2, 3))
    torch.testing.assert_close(unit.undo(unit(x)), x)


def test_half_precision_comes_out_as_float32():
    assert Standardizer(1, 2)(torch.ones(1, 1, 1, 2).half()).dtype == torch.float32


def test_constants_are_buffers_that_no_training_moves():
    """Fact 11. Fails when the constants are parameters or follow what they see."""
    unit = Standardizer(1, 2)
    unit.fit(torch.ones(1, 2), 2 * torch.ones(1, 2))
    assert not list(unit.parameters()) and set(unit.state_dict()) == {"mean", "std"}
    unit.train()
    small = unit(torch.ones(1, 1, 4, 2) * 1e-3)
    again = unit(torch.ones(1, 1, 4, 2) * 1e-3)
    torch.testing.assert_close(small, again)
    torch.testing.assert_close(unit.std, torch.full((1, 2), 2.0))
