"""Corrected scales: least squares by hand, on a student, and still whole numbers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from align.errors import InputError
from align.schedules import Timetable
from plugins.contracts.models.student_maker import small_model
from student.transforms import BlockSparse, FakeQuant, Moved, Transforms
from student.transforms.base import Blended
from student.transforms.codes import codes_of
from student.transforms.fake_quant import Grid, _Largest
from student.transforms.scales import _factors, fit_scales
from tests.student.transforms.test_bias import Batch, biased


def corrected(model, strength=1.0, **options):
    """A rounded model, and its inputs of a layer before and after it was corrected."""
    moved = {"q": Moved(FakeQuant(correct_scales=True, **options), strength)}
    transforms = Transforms(model, moved, Timetable(4))
    transforms.at(4)
    layer, inputs = model.model.layers[2].self_attn.q_proj, []
    before = layer.weight.detach().clone()
    hook = layer.register_forward_pre_hook(lambda m, x: inputs.append(x[0]))
    with torch.no_grad():
        transforms.finish(model, [Batch()])
    hook.remove()
    rows = inputs[0][Batch.mask].detach()
    return layer, before, rows


@pytest.mark.parametrize("group", [0, 8])
def test_each_output_is_multiplied_by_least_squares_of_numpy(group):
    layer, before, rows = corrected(small_model(), bits=3, group=group)
    unrounded = layer.parametrizations["weight"].original
    y, z = (np.float64(rows) @ np.float64(w.detach()).T for w in (unrounded, before))
    by_hand = [
        np.linalg.lstsq(z[:, [o]], y[:, o], rcond=None)[0][0]
        for o in range(len(before))
    ]
    factors = layer.parametrizations["weight"][0].made.factors
    np.testing.assert_allclose(factors, by_hand, rtol=1e-4)
    assert float((factors - 1).abs().max()) > 0.01
    torch.testing.assert_close(layer.weight, before * factors[:, None])
    # Of the numbers of the grid none is another, so that it can be packed as before.
    found, scales = codes_of(layer.weight, 3, group)
    whole, plain = codes_of(before, 3, group)
    assert torch.equal(found, whole)
    torch.testing.assert_close(scales, plain * factors[:, None])
    error = [np.square(y - z * f).mean() for f in (1.0, factors.numpy())]
    assert error[1] < error[0]


def test_with_a_bias_to_correct_it_is_the_line_of_least_squares():
    model = biased()
    layer, before, rows = corrected(model, bits=2, correct_bias=True)
    held = layer.parametrizations
    y, z = (
        np.float64(rows) @ np.float64(w.detach()).T
        for w in (held["weight"].original, before)
    )
    slopes = [np.polyfit(z[:, o], y[:, o], 1)[0] for o in range(len(before))]
    usable = np.array(slopes) > 0
    factors = held["weight"][0].made.factors.numpy()
    assert usable.sum() > 20
    np.testing.assert_allclose(factors[usable], np.array(slopes)[usable], rtol=1e-3)
    assert (factors[~usable] == 1).all()
    down = model.model.layers[2].mlp.down_proj  # it has no bias: not less the mean
    assert down.parametrizations["weight"][0].made.factors is not None
    assert held["bias"][0].shifted


def test_half_as_strong_a_student_has_the_factors_of_what_is_rounded_at_0_none():
    layer, _, rows = corrected(small_model(), 0.5, bits=3)
    unrounded = layer.parametrizations["weight"].original.detach()
    rounding = layer.parametrizations["weight"][0].made
    factors = rounding.factors
    rounding.factors = None
    y, z = rows @ unrounded.T, rows @ rounding(unrounded).T
    expected = (y * z).sum(0) / z.square().sum(0)
    torch.testing.assert_close(factors, expected, rtol=1e-3, atol=1e-5)
    model = small_model()
    transform = FakeQuant(correct_scales=True)
    transform.attach(model)
    transform.finish(model, [Batch()])
    layer = model.model.layers[2].self_attn.q_proj
    assert layer.parametrizations["weight"][0].made.factors is None


def test_what_prunes_after_it_prunes_as_before_and_a_silent_output_stays():
    model = small_model()
    with torch.no_grad():
        model.model.layers[2].self_attn.q_proj.weight[5] = 0
    moved = {
        "q": Moved(FakeQuant(correct_scales=True, bits=3), 1.0),
        "zeros": Moved(BlockSparse(block="1x4"), 1.0),
    }
    transforms = Transforms(model, moved, Timetable(4))
    transforms.at(0)
    layer = model.model.layers[2].self_attn.q_proj
    before = layer.weight.detach().clone()
    transforms.finish(model, [Batch()])
    factors = layer.parametrizations["weight"][0].made.factors
    assert float(factors[5]) == 1
    torch.testing.assert_close(layer.weight, before * factors[:, None])
    assert "scales to correct" in transforms.lines["q"]


def test_scales_that_were_trained_are_not_fitted_to_something_else():
    with pytest.raises(InputError, match="correct_scales is true, and scales is learn"):
        FakeQuant(scales="learned", correct_scales=True)


def test_all_batches_count_and_a_factor_that_would_turn_the_sign_is_left_out():
    from transformers.pytorch_utils import Conv1D

    drawn = torch.Generator().manual_seed(7)
    layer = Conv1D(3, 8)
    layer.weight = torch.nn.Parameter(torch.randn(8, 3, generator=drawn))
    rounding = Blended(_Largest(Grid(bits=2, group=4)), on_side=True)
    torch.nn.utils.parametrize.register_parametrization(
        layer, "weight", rounding, unsafe=True
    )
    rounding.move(1.0)
    before = layer.weight.detach().clone()
    shown = [torch.randn(1, n, 8, generator=drawn) for n in (20, 30)]
    batches = [SimpleNamespace(ids=x, mask=torch.ones(x.shape[:2]) > 0) for x in shown]
    for _ in "12":  # what was fitted before is forgotten
        fit_scales(
            lambda input_ids, **_: layer(input_ids), [(layer, rounding)], batches
        )
        rows = torch.cat([x[0] for x in shown])
        y, z = (rows @ w for w in (layer.parametrizations["weight"].original, before))
        expected = (y * z).sum(0) / z.square().sum(0)
        torch.testing.assert_close(rounding.made.factors, expected.detach())
    moments = torch.tensor(
        [[4.0] * 4, [0.0] * 4, [0.0] * 4, [2, -2, 0, 3], [4, 4, 0, 2]]
    )
    assert _factors(moments, centred=False).tolist() == [0.5, 1.0, 1.0, 1.5]


@pytest.mark.parametrize("count", [1, 2, 64, 1000])
def test_an_output_that_never_moves_has_no_line_of_least_squares(count):
    drawn = torch.Generator().manual_seed(0)
    y = 3 * torch.randn(1, 8, generator=drawn).expand(count, 8)
    z = 1.05 * y
    every = torch.stack([torch.ones_like(y), y, z, y * z, z * z])
    moments = every.sum(1, dtype=torch.float64)
    assert (_factors(moments, centred=True) == 1).all()
    torch.testing.assert_close(
        _factors(moments, centred=False), torch.full((8,), 1 / 1.05)
    )
