"""Rounded weights: by hand, against PyTorch's own, on a student and out of it."""

import math

import pytest
import torch
from torch import nn

from align.errors import InputError
from align.schedules import Timetable
from align.support.matrices import layouts, plain_name, plain_parameters, trained_weight
from plugins.contracts.models.student_maker import small_model
from student.transforms import (
    FakeQuant,
    Moved,
    Transforms,
    is_transformed,
    put_transformed,
)
from student.transforms.fake_quant import Grid, lsq


def rounded(weight, **options):
    made = FakeQuant(**options).made_for(weight, "layer")
    return made(weight)


def test_two_bits_by_hand():
    # the largest of a row is the grid's end, 1 step: steps are -2, -1, 0, 1
    weight = torch.tensor([[1.0, 0.6, 0.4, -0.6], [-4.0, 2.1, 1.9, 0.0]])
    by_hand = torch.tensor([[1.0, 1.0, 0.0, -1.0], [-4.0, 4.0, 0.0, 0.0]])
    torch.testing.assert_close(rounded(weight, bits=2), by_hand)
    groups = torch.tensor([[1.0, 1.0, 0.6, -0.6], [-4.0, 4.0, 1.9, 0.0]])
    torch.testing.assert_close(rounded(weight, bits=2, group=2), groups)


def test_a_grid_has_one_step_more_below_and_its_ends_are_inside():
    rows = torch.tensor([[-9.0, -8.0, 7.0, 9.0]], requires_grad=True)
    scales = torch.tensor([2.0])
    grid = Grid(bits=3, group=4)
    assert grid.rounded(rows, scales).tolist() == [[-8.0, -8.0, 6.0, 6.0]]
    assert grid.rounded(rows, scales, scales / 4).tolist() == [[-2.0, -2.0, 1.5, 1.5]]
    ends = torch.tensor([[-8.1, -8.0, 6.0, 6.1]], requires_grad=True)
    lsq(ends, scales[:, None], grid.low, grid.high).sum().backward()
    assert ends.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_a_row_of_zeros_stays_one_and_eight_bits_err_by_half_a_step():
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    weight[2] = 0.0
    near = rounded(weight, bits=8)
    assert torch.equal(near[2], weight[2])
    torch.testing.assert_close(rounded(near, bits=8), near)  # the same grid again
    step = weight.abs().amax(1, keepdim=True) / 127
    assert bool(((near - weight).abs() <= step / 2 + 1e-6).all())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_learned_scales_have_the_gradients_of_torchs_own(bits):
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(5, 12, generator=generator)
    scales = 0.1 + torch.rand(5, generator=generator)
    slope = torch.randn(5, 12, generator=generator)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    steps = weight / scales[:, None]
    beyond = (steps > high) & (steps.round() <= high)
    beyond |= (steps < low) & (steps.round() >= low)
    slope[beyond] = 0  # inside for PyTorch, outside for LSQ's equations
    ours = weight.clone().requires_grad_(), scales.clone().requires_grad_()
    theirs = weight.clone().requires_grad_(), scales.clone().requires_grad_()
    a = lsq(ours[0], ours[1][:, None], low, high)
    b = torch._fake_quantize_learnable_per_channel_affine(
        *theirs, torch.zeros(5), 0, low, high, 1.0
    )
    torch.testing.assert_close(a, b)
    (a * slope).sum().backward()
    (b * slope).sum().backward()
    torch.testing.assert_close(ours[0].grad, theirs[0].grad)
    torch.testing.assert_close(ours[1].grad, theirs[1].grad)


def test_a_learned_scale_begins_where_the_error_is_least_and_learns_by_its_share():
    weight = torch.tensor([[0.1, -0.1, 0.1, 1.0]]).repeat(1, 8)
    grid = Grid(bits=2, group=32)
    begun = grid.best_scales(grid.rows(weight))
    errors = [
        float((grid.rounded(weight, begun * k) - weight).square().sum())
        for k in (0.9, 1.0, 1.1)
    ]
    assert errors[1] == min(errors)
    made = FakeQuant(bits=2, scales="learned").made_for(weight, "layer")
    made(weight).sum().backward()
    # LSQ's factor 1 / sqrt(32 * 1); d/d log s = s d/ds
    scale = begun.clone().requires_grad_()
    lsq(weight, scale[:, None], -2, 1).sum().backward()
    torch.testing.assert_close(
        made.log_growth.grad, begun * scale.grad / math.sqrt(32.0)
    )
    assert made.log_growth.dim() == 1  # neither decayed nor Muon's


def test_gradients_go_straight_through_and_a_learned_scale_is_what_it_began_as_grown():
    drawn = torch.Generator().manual_seed(8)
    weight, slope = (torch.randn(3, 16, generator=drawn) for _ in "ws")
    latent = weight.clone().requires_grad_(True)
    FakeQuant(bits=3).made_for(weight, "layer")(latent).backward(slope)
    assert torch.equal(latent.grad, slope)
    weight[:, 0] = 4.0  # far from all others: a grid that reaches it is too coarse
    grid = Grid(bits=4, group=16)
    made = FakeQuant(bits=4, scales="learned").made_for(weight, "layer")
    assert bool((made.begun < grid.scales_of(weight)).any())
    with torch.no_grad():
        made.log_growth.copy_(torch.tensor([0.0, 0.5, -0.5]))
    scales = made.begun * torch.tensor([0.0, 0.5, -0.5]).exp()
    torch.testing.assert_close(made(weight), grid.rounded(weight, scales))


def test_a_student_is_what_it_was_then_rounded_then_exported_without_a_change():
    ids = torch.arange(12)[None]
    model, plain = small_model().requires_grad_(True), small_model()
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    before = model(ids).logits
    names = set(dict(model.named_parameters()))
    moved = {"q": Moved(FakeQuant(bits=3, group=16), {"from": 0.0, "to": 1.0})}
    transforms = Transforms(model, moved, Timetable(4))
    assert is_transformed(model) and not is_transformed(plain)
    assert set(plain_parameters(model)) == names
    layer = model.model.layers[0].mlp.up_proj
    transforms.at(0)
    assert torch.equal(model(ids).logits, before)
    transforms.at(1)
    middle = layer.weight
    transforms.at(4)
    whole = layer.weight
    latent = trained_weight(layer)
    torch.testing.assert_close(middle, latent + (whole - latent) / 4)
    reference = torch.fake_quantize_per_channel_affine(
        latent.detach().view(-1, 16),
        latent.detach().view(-1, 16).abs().amax(1) / 3,
        torch.zeros(latent.numel() // 16, dtype=torch.int32),
        0,
        -4,
        3,
    )
    assert torch.equal(whole, reference.view_as(whole))
    put_transformed(model, plain)
    assert torch.equal(plain(ids).logits, model(ids).logits)
    assert torch.equal(plain.lm_head.weight, model.lm_head.weight)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    transforms.at(0)
    model.load_state_dict(state)  # what was kept at strength 1
    transforms.recall()
    assert torch.equal(layer.weight, whole)


def test_strength_beyond_one_and_what_does_not_fit_are_refused_by_name():
    model = small_model()
    with pytest.raises(InputError, match=r"transform\.q: group is 7.*32 inputs"):
        Transforms(model, {"q": Moved(FakeQuant(group=7), 1.0)}, Timetable(4))
    named = FakeQuant(targets=["q_prj"])
    with pytest.raises(InputError, match=r"'q_prj'.*they are down_proj"):
        Transforms(model, {"q": Moved(named, 1.0)}, Timetable(4))
    few = FakeQuant(targets=["mlp.up_proj", "q_proj"])
    transforms = Transforms(model, {"q": Moved(few, 2.0)}, Timetable(4))
    layer = model.model.layers[1]
    assert "parametrizations" in dict(layer.mlp.up_proj.named_children())
    assert not dict(layer.mlp.down_proj.named_children())
    with pytest.raises(InputError, match=r"transform\.q\.strength is 2 at step 0"):
        transforms.at(0)


def test_gpt2s_layers_lie_on_their_side():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2))
    layer = model.transformer.h[0].attn.c_attn
    before = layer.weight.detach().clone()
    transforms = Transforms(model, {"q": Moved(FakeQuant(bits=4), 1.0)}, Timetable(1))
    transforms.at(0)
    assert torch.equal(layer.weight.T, rounded(before.T, bits=4))
    assert model.lm_head.weight is model.transformer.wte.weight  # tied, and whole
    assert all(layouts(model, {})[id(trained_weight(layer))].on_side for _ in "1")


def test_names_are_those_of_a_checkpoint():
    assert plain_name("a.q.parametrizations.weight.original") == "a.q.weight"
    assert plain_name("parametrizations.weight.original") == "weight"
    assert plain_name("a.q.parametrizations.weight.0.made.log_growth") is None
    assert plain_name("a.q.bias") == "a.q.bias"
    assert list(plain_parameters(nn.Linear(2, 2))) == ["weight", "bias"]
