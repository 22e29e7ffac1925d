"""Pruned blocks: against PyTorch's pruning, finite differences, and on a student."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from align.errors import InputError
from align.schedules import Timetable
from align.support.matrices import trained_weight
from plugins.contracts.models.student_maker import small_model
from student.transforms import (
    BlockSparse,
    FakeQuant,
    LowRank,
    Moved,
    Transforms,
    put_transformed,
)
from student.transforms.base import Blended
from student.transforms.block_sparse import in_blocks

IDS = torch.randint(0, 30, (2, 12), generator=torch.Generator().manual_seed(2))


def pruned(model, steps=(), **options):
    """A model with a transform at strength 1, after backward passes."""
    moved = {"zeros": Moved(BlockSparse(**options), 1.0)}
    transforms = Transforms(model, moved, Timetable(8))
    transforms.at(0)
    for step in steps:
        model(input_ids=IDS, labels=IDS).loss.backward()
        transforms.at(step)
    return model


@pytest.mark.parametrize(
    ("block", "theirs"),
    [
        ("1x1", lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),
        ("1x64", lambda layer: prune.ln_structured(layer, "weight", 0.3, n=2, dim=0)),
        ("32x1", lambda layer: prune.ln_structured(layer, "weight", 0.3, n=2, dim=1)),
    ],
)
def test_by_weights_alone_it_is_pytorchs_pruning(block, theirs):
    name = "model.layers.1.mlp.down_proj"
    ours = pruned(small_model(), block=block, sparsity=0.3, targets=["down_proj"])
    reference = small_model().get_submodule(name)
    theirs(reference)
    assert torch.equal(ours.get_submodule(name).weight, reference.weight)


def test_by_gradients_it_is_pytorchs_pruning_with_these_importances():
    name = "model.layers.0.self_attn.q_proj"
    other = small_model().requires_grad_(True)
    other(input_ids=IDS, labels=IDS).loss.backward()
    reference = other.get_submodule(name)
    scores = (reference.weight * reference.weight.grad).abs()
    model = pruned(small_model().requires_grad_(True), block="1x1", sparsity=1e-9)
    model(input_ids=IDS, labels=IDS).loss.backward()
    blocks = model.get_submodule(name).parametrizations["weight"][0].made
    torch.testing.assert_close(blocks.heard[0], scores.detach())
    prune.l1_unstructured(reference, "weight", 0.4, importance_scores=scores)
    blocks.importance.copy_(blocks.heard[0])
    blocks.choose(round(0.4 * scores.numel()))
    assert torch.equal(blocks.kept, reference.weight_mask.bool())


def test_a_weights_importance_is_the_slope_of_the_loss_along_it():
    """Central differences of the loss over a factor on one weight."""
    model = small_model().double().requires_grad_(True)
    pruned(model, block="1x1", sparsity=1e-9, targets=["up_proj"])
    layer = model.model.layers[0].mlp.up_proj
    weight = trained_weight(layer)

    def loss():
        logits = model(input_ids=IDS).logits[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten())

    loss().backward()
    heard = layer.parametrizations["weight"][0].made.heard[0]
    # Norms of the library compute in float32: where slopes are large, far apart.
    for flat in heard.flatten().topk(3).indices.tolist():
        place, ends = divmod(flat, heard.shape[1]), []
        for factor in (1.1, 0.9):
            with torch.no_grad():
                before = weight[place].item()
                weight[place] = before * factor
                ends.append(float(loss()))
                weight[place] = before
        slope = abs(ends[0] - ends[1]) / 0.2
        assert float(heard[place]) == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({"block": "neon", "sparsity": 0.75}, 0.75),
        ({"block": "2x8", "sparsity": 0.5}, 0.5),
        ({"block": "tensor_cores"}, 0.5),
    ],
)
def test_what_is_exported_has_so_many_zeros_and_head_and_embeddings_none(
    options, share
):
    model = pruned(small_model().requires_grad_(True), range(1, 4), **options)
    plain = small_model()
    put_transformed(model, plain)
    for name, weight in plain.named_parameters():
        zeros = weight == 0
        if weight.dim() < 2 or "layers" not in name:
            assert not zeros.any() or "bias" in name, name
            continue
        assert float(zeros.float().mean()) == share, name
        if options["block"] == "tensor_cores":
            assert bool((zeros.view(-1, 4).sum(1) == 2).all())
        if options["block"] == "2x8":
            whole = in_blocks(zeros.float(), (2, 8)).mean((1, 3))
            assert set(whole.unique().tolist()) == {0.0, 1.0}


def test_what_was_pruned_learns_and_importances_are_a_running_mean():
    model = small_model().requires_grad_(True)
    pruned(model, block="4x4", sparsity=0.5, memory=0.75, every=1)
    layer = model.model.layers[2].self_attn.o_proj
    blocks = layer.parametrizations["weight"][0].made
    model(input_ids=IDS, labels=IDS).loss.backward()
    slope = trained_weight(layer).grad
    assert bool(in_blocks(slope, (4, 4)).abs().sum((1, 3))[~blocks.kept].all())
    first = blocks.heard[0].clone()
    transform = BlockSparse(block="4x4", memory=0.75)
    transform.changed_layers = [(layer, layer.parametrizations["weight"][0])]
    transform.at(1.0, 1)
    assert torch.equal(blocks.importance, first)
    model(input_ids=IDS, labels=IDS).loss.backward()
    heard = blocks.heard[0].clone()
    model(input_ids=IDS, labels=IDS).loss.backward()  # two passes of one step
    assert torch.allclose(blocks.heard[0] / 2, heard, rtol=1e-4)  # the same text twice
    second = blocks.heard[0] / 2
    transform.at(1.0, 2)
    torch.testing.assert_close(blocks.importance, 0.75 * first + 0.25 * second)
    before = blocks.importance.clone()
    blocks.hear(layer.weight.detach(), torch.full_like(layer.weight, torch.nan))
    transform.at(1.0, 3)
    assert torch.equal(blocks.importance, before)


def test_what_is_heard_is_the_product_of_a_blocks_norms_also_in_shared_memory():
    drawn = torch.Generator().manual_seed(1)
    transform, heard = BlockSparse(block="2x4"), []
    for shape in ((8, 16), (4, 8), (16, 16)):
        weight, slope = (torch.randn(shape, generator=drawn) for _ in "ws")
        weight.requires_grad_(True)
        blocks = transform.made_for(weight.detach(), "layer")
        (made,) = torch.autograd.grad(blocks(weight), weight, slope, create_graph=True)
        assert torch.equal(made, slope)
        by_hand = [
            torch.linalg.vector_norm(in_blocks(m, (2, 4)), dim=(1, 3))
            for m in (weight.detach(), slope)
        ]
        heard.append((blocks, by_hand[0] * by_hand[1]))
    for blocks, expected in heard:
        torch.testing.assert_close(blocks.heard[0], expected)
        torch.testing.assert_close(blocks.heard[1], expected.sum())


@pytest.mark.parametrize("block", ["1x4", "tensor_cores"])
def test_half_way_half_as_many_are_zero_those_that_matter_least_and_none_between(block):
    transform = BlockSparse(block=block, every=3)
    drawn = torch.Generator().manual_seed(5)
    weight = torch.randn(4, 16, generator=drawn)
    blocks = transform.made_for(weight, "layer")
    blended = Blended(blocks, on_side=False)
    transform.changed_layers = [(None, blended)]
    transform.at(0.5, 1)
    zeros = blended(weight) == 0
    assert torch.equal(blended(weight)[~zeros], weight[~zeros])
    if block == "tensor_cores":
        least = weight.abs().view(-1, 4).sort(1)[0][:, :2].sum(1)
        chosen = least.argsort()[: len(least) // 2]
        assert zeros.view(-1, 4).sum(1)[chosen].tolist() == [2] * len(chosen)
    else:
        least = weight.view(-1, 4).norm(dim=1)
        chosen = least.argsort()[: len(least) // 4]
        assert bool(zeros.view(-1, 4)[chosen].all())
    assert int(zeros.sum()) == 16
    blocks.importance.copy_(blocks.importance.flip(0))  # others matter now
    for step in (2, 3):
        transform.at(0.5, step)
        moved = blended(weight) == 0
        assert torch.equal(moved, zeros) == (step == 2) and int(moved.sum()) == 16


def test_it_goes_with_rounding_and_refuses_to_be_filled_again():
    both = {"zeros": Moved(BlockSparse(block="1x4"), 1.0)}
    both["q"] = Moved(FakeQuant(bits=3), 1.0)
    model = small_model()
    Transforms(model, both, Timetable(4)).at(0)
    weight = model.model.layers[0].mlp.up_proj.weight
    assert (
        float((in_blocks(weight, (1, 4)).abs().sum((1, 3)) == 0).float().mean()) >= 0.5
    )
    assert max(len(row.unique()) for row in weight) <= 8
    flat = {"zeros": both["zeros"], "flat": Moved(LowRank(), 1.0)}
    flat["zeros"] = Moved(BlockSparse(block="1x4"), 1.0)
    with pytest.raises(
        InputError, match=r"transform\.flat.*before the one that prunes"
    ):
        Transforms(small_model(), flat, Timetable(4))
    turned = {"flat": Moved(LowRank(), 1.0), "zeros": Moved(BlockSparse(), 1.0)}
    Transforms(small_model(), turned, Timetable(4)).at(0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"block": "sse"}, "block is 'sse'; give outputs x inputs such as 4x4"),
        ({"block": "0x4"}, "block is '0x4'"),
        ({"block": "tensor_cores", "sparsity": 0.7}, "2:4 is 0.5"),
    ],
)
def test_what_no_block_can_be_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        BlockSparse(**options)


def test_blocks_that_do_not_divide_a_matrix_are_refused_by_name():
    with pytest.raises(InputError, match=r"3x1, which does not divide the 32 outputs"):
        BlockSparse(block="3x1").attach(small_model())
