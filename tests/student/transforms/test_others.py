"""Low rank against the SVD, and layers left out as often as they should be."""

import copy

import pytest
import torch
from torch import nn

from align.errors import InputError
from align.schedules import Timetable
from align.support.matrices import trained_weight
from plugins.contracts.models.student_maker import small_model
from student.transforms import FakeQuant, LowRank, Moved, StochasticDepth, Transforms
from student.transforms.low_rank import _Directions, rank_of
from student.transforms.stochastic_depth import decoder_layers, mix


def test_the_rank_is_the_least_that_keeps_the_share():
    values = torch.tensor([3.0, 2.0, 1.0])  # energies 9, 4, 1 of 14
    shares = (0.0, 9 / 14, 0.65, 13 / 14, 0.95, 1.0)
    assert [rank_of(values, share) for share in shares] == [1, 1, 2, 2, 3, 3]


def test_a_low_rank_student_is_the_truncated_svd_and_looks_again():
    model = small_model().requires_grad_(True)
    made = LowRank(share=0.6, every=2)
    transforms = Transforms(model, {"flat": Moved(made, 1.0)}, Timetable(8))
    transforms.at(0)
    layer = model.model.layers[2].mlp.down_proj

    def nearest(rank):
        u, s, v = torch.linalg.svd(trained_weight(layer).detach(), full_matrices=False)
        return u[:, :rank] * s[:rank] @ v[:rank]

    rank = int(torch.linalg.matrix_rank(layer.weight))
    assert 1 < rank < 32
    torch.testing.assert_close(layer.weight, nearest(rank), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        trained_weight(layer).copy_(torch.randn(32, 64) / 8)
    transforms.at(1)
    assert not torch.allclose(layer.weight, nearest(rank), atol=1e-3)
    transforms.at(2)
    torch.testing.assert_close(layer.weight, nearest(rank), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (10, 10)])
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_directions_are_those_of_the_svd_whichever_side_and_half_is_held(shape, share):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(shape, generator=generator, requires_grad=True)
    slope = torch.randn(shape, generator=generator)
    u, values, v = torch.linalg.svd(weight.detach(), full_matrices=False)
    rank = rank_of(values, share)
    held = _Directions(weight.detach(), share)
    assert held.basis.shape == (10, min(rank, 10 - rank))

    made = held(weight)
    made.backward(slope)
    sides = u[:, :rank] @ u[:, :rank].T, v[:rank].T @ v[:rank]
    expected = slope @ sides[1] if shape[0] > shape[1] else sides[0] @ slope
    nearest = u[:, :rank] * values[:rank] @ v[:rank]
    torch.testing.assert_close(made.detach(), nearest, atol=1e-5, rtol=0)
    torch.testing.assert_close(weight.grad, expected, atol=1e-5, rtol=0)
    basis = held.basis.clone()
    held.look(weight.detach())
    assert torch.equal(held.basis, basis)


def test_a_copy_that_is_given_other_directions_goes_by_those():
    drawn = torch.Generator().manual_seed(3)
    first = torch.randn(10, 24, generator=drawn)
    turned = torch.linalg.qr(torch.randn(10, 10, generator=drawn)).Q
    second = turned @ first  # of the same rank
    held, other = _Directions(first, 0.9), _Directions(second, 0.9)
    assert held.others == other.others > 0
    held.look(first)
    assert held.kept is held.kept
    copied = copy.deepcopy(held)
    copied.load_state_dict(other.state_dict())
    for directions, weight in ((held, first), (copied, second)):
        kept = directions.kept
        torch.testing.assert_close(
            kept @ kept.T @ weight, directions(weight), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_in_training_it_goes_by_way_of_the_directions_and_learns_the_same(share):
    model, ids = small_model().requires_grad_(True), torch.arange(24).view(2, 12)
    layer = model.model.layers[1].mlp.up_proj
    layer.bias = nn.Parameter(torch.ones(64))
    model.model.layers[1].mlp.down_proj.bias = nn.Parameter(torch.ones(32))
    transform = LowRank(share=share)
    transform.attach(model)
    transform.at(1.0, 0)
    made = layer.parametrizations["weight"][0].made
    assert bool(made.others) == (share == 0.8)
    assert made.kept.shape == (32, made.others or made.basis.shape[1])
    answers = {}
    for mode in (True, False):
        calls = []
        hook = layer.parametrizations["weight"].register_forward_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        model.train(mode).zero_grad()
        out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        hook.remove()
        assert len(calls) == (0 if mode else 1)
        slope = trained_weight(layer).grad.clone()
        answers[mode] = out.logits, slope, model.model.embed_tokens.weight.grad.clone()
    torch.testing.assert_close(answers[True], answers[False])
    x = torch.randn(3, 32)
    layer.train()

    def by_weight():
        return nn.functional.linear(x, layer.weight, layer.bias)

    torch.testing.assert_close(layer(x), by_weight(), atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), by_weight())
    transform.at(0.5, 1)
    assert torch.equal(layer(x), by_weight())  # blended
    transform.at(1.0, 1)
    FakeQuant(bits=4, targets=["up_proj"]).attach(model)
    layer.parametrizations["weight"][1].move(1.0)
    assert torch.equal(layer(x), by_weight())  # rounded
    other = copy.deepcopy(model)
    with torch.no_grad():
        trained_weight(layer).zero_()
    assert bool((layer(x) == 1).all())
    assert bool((other.model.layers[1].mlp.up_proj(x) != 1).any())


def test_what_a_layer_adds_is_kept_in_expectation_and_whole_or_not_at_all():
    before, after = torch.zeros(4000, 1, 1), torch.ones(4000, 1, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mixed = mix(before, after, 0.25)
    assert mixed.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    # three standard errors of a share of 4000
    assert abs(float(mixed.mean()) - 1) < 3 * (0.25 * 0.75 / 4000) ** 0.5 / 0.75


def test_upper_layers_are_left_out_more_often_and_none_in_evaluation():
    model = small_model()
    transform = StochasticDepth(drop=0.8)
    transform.attach(model)
    layers = decoder_layers(model)
    rates = [hook.keywords["share"] * transform.drop for hook in hooks(layers)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8])
    ids = torch.arange(8).repeat(4, 1)
    whole = model(ids).logits
    transform.at(1.0, 0)
    assert torch.equal(model(ids).logits, whole)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        dropped = model.train()(ids).logits
    assert not torch.equal(dropped[0], dropped[1])  # each text draws by itself
    with pytest.raises(InputError, match="no list of its 4 layers"):
        model.model.layers = nn.ModuleList([layers[0]])
        decoder_layers(model)


def hooks(layers):
    return [next(iter(layer._forward_hooks.values())) for layer in layers]
