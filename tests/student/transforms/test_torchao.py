"""Rounded weights against torchao's own fake quantiser, where torchao is installed.

It is no part of the extra ``dev``: transformers imports it wherever it lies, which adds
two seconds to every process that loads a model. ``make test-torchao`` installs it
beside the environment, and runs these.
"""

import copy

import pytest
import torch
from torch import nn

from align.support.matrices import trained_weight
from plugins.contracts.models.student_maker import small_model
from student.transforms import FakeQuant
from student.transforms.fake_quant import Grid, lsq

pytestmark = pytest.mark.slow

BITS = range(2, 9)
GROUPS = pytest.mark.parametrize("group", [0, 8])


@pytest.fixture(scope="module")
def qat():
    return pytest.importorskip(
        "torchao.quantization.qat", reason="torchao is not installed"
    )


def quantiser(qat, bits, group, width, **options):
    """Torchao's, symmetric, a scale a row or a group."""
    return qat.IntxFakeQuantizer(
        qat.IntxFakeQuantizeConfig(
            getattr(torch, f"int{bits}"),
            group_size=group or width,
            is_symmetric=True,
            **options,
        )
    )


def drawn(bits, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(bits))


def slopes(made, weight, slope):
    (made * slope).sum().backward()
    return weight.grad


def at_scales(theirs, scales):
    """Torchao's quantiser with scales that are given."""
    theirs.scale = scales
    theirs.zero_point = torch.zeros_like(scales, dtype=torch.int32)
    return theirs


@GROUPS
@pytest.mark.parametrize("bits", BITS)
def test_values_are_torchaos_bit_for_bit_at_our_scales_and_gradients_are_its(
    qat, bits, group
):
    weight, slope = drawn(bits, 6, 32), drawn(9, 6, 32)
    ours, theirs = (weight.clone().requires_grad_() for _ in range(2))
    grid = Grid(bits=bits, group=group or 32)
    scales = grid.scales_of(grid.rows(weight)).view(6, -1)
    made = FakeQuant(bits=bits, group=group).made_for(weight, "layer")(ours)
    reference = quantiser(qat, bits, group, 32, is_dynamic=False)
    expected = at_scales(reference, scales)(theirs)
    assert torch.equal(made, expected)
    # Theirs goes through 1 / s and s, which rounds its last bit.
    torch.testing.assert_close(
        slopes(made, ours, slope), slopes(expected, theirs, slope)
    )


@GROUPS
@pytest.mark.parametrize("bits", BITS)
def test_our_scale_is_torchaos_without_clipping_and_its_own_is_half_a_step_less(
    qat, bits, group
):
    from torchao.quantization.quant_primitives import MappingType
    from torchao.quantization.utils import get_group_qparams_symmetric

    weight = drawn(bits, 6, 32)
    grid = Grid(bits=bits, group=group or 32)
    rows = grid.rows(weight)
    ours = grid.scales_of(rows)
    half, _ = get_group_qparams_symmetric(weight, bits, group or 32)
    torch.testing.assert_close(half.flatten() * (grid.high + 0.5), ours * grid.high)
    whole, _ = get_group_qparams_symmetric(
        weight, bits, group or 32, mapping_type=MappingType.SYMMETRIC_NO_CLIPPING_ERR
    )
    upwards = rows.amax(1) >= -rows.amin(1)  # below, theirs has one step more
    assert bool(upwards.any())
    torch.testing.assert_close(whole.flatten()[upwards], ours[upwards])


@GROUPS
@pytest.mark.parametrize("bits", BITS)
def test_learned_scales_have_torchaos_values_and_gradients(qat, bits, group):
    """Torchao's own learn, too: it calls that a prototype of range learning."""
    weight, slope = drawn(bits, 6, 32), drawn(9, 6, 32)
    grid = Grid(bits=bits, group=group or 32)
    scales = 0.7 * grid.scales_of(grid.rows(weight)).view(6, -1)
    steps = grid.rows(weight) / scales.view(-1, 1)
    # Torchao takes what is less than half a step outside for inside.
    beyond = (steps > grid.high) & (steps.round() <= grid.high)
    beyond |= (steps < grid.low) & (steps.round() >= grid.low)
    slope[beyond.view(6, 32)] = 0
    ours, theirs = (weight.clone().requires_grad_() for _ in range(2))
    learned = scales.clone().requires_grad_()
    made = lsq(grid.rows(ours), learned.view(-1, 1), grid.low, grid.high).view(6, 32)
    reference = quantiser(qat, bits, group, 32, is_dynamic=False, range_learning=True)
    reference.scale = nn.Parameter(scales.clone())
    reference.zero_point = torch.zeros_like(scales)
    reference._initialized = True
    expected = reference(theirs)
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(
        slopes(made, ours, slope), slopes(expected, theirs, slope)
    )
    torch.testing.assert_close(learned.grad, reference.scale.grad, atol=1e-4, rtol=1e-4)


@GROUPS
def test_a_student_answers_and_learns_as_under_torchaos_qat(qat, group):
    """Its own layers, put in the place of all linear ones but the head."""
    from torchao.quantization import quantize_

    ids = torch.randint(0, 30, (2, 12), generator=torch.Generator().manual_seed(2))
    ours = small_model().requires_grad_(True)
    theirs = copy.deepcopy(ours)
    transform = FakeQuant(bits=4, group=group)
    transform.attach(ours)
    transform.at(1.0, 0)

    def chosen(module, name):
        return isinstance(module, nn.Linear) and name != "lm_head"

    config = qat.IntxFakeQuantizeConfig(
        torch.int4,
        **({"group_size": group} if group else {"granularity": "per_channel"}),
    )
    quantize_(theirs, qat.QATConfig(weight_config=config, step="prepare"), chosen)
    for name, layer in theirs.named_modules():
        if getattr(layer, "weight_fake_quantizer", None) is None:
            continue
        width = layer.weight.shape[1]
        grid = Grid(bits=4, group=group or width)
        rows = grid.rows(trained_weight(ours.get_submodule(name)).detach())
        layer.weight_fake_quantizer.config.is_dynamic = False
        scales = grid.scales_of(rows).view(len(layer.weight), -1)
        at_scales(layer.weight_fake_quantizer, scales)
    a, b = (model(input_ids=ids, labels=ids) for model in (ours, theirs))
    assert torch.equal(a.logits, b.logits)
    a.loss.backward()
    b.loss.backward()
    layers = [layer for layer, _ in transform.changed_layers]
    names = [name for name, m in ours.named_modules() if m in layers]
    assert len(names) == 7 * 4
    for name in names:
        mine = trained_weight(ours.get_submodule(name)).grad
        torch.testing.assert_close(mine, theirs.get_submodule(name).weight.grad)
