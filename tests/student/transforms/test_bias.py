"""Corrected biases: the mean of a layer's output is that of the unrounded one."""

import copy
from types import SimpleNamespace

import pytest
import torch

from align.errors import InputError
from align.schedules import Timetable
from plugins.contracts.models.student_maker import small_model
from student.transforms import (
    FakeQuant,
    Moved,
    Transforms,
    put_transformed,
    put_untransformed,
)
from student.transforms.bias import attach_shifts, correct


class Batch:
    """Two texts, the second shorter."""

    ids = torch.randint(0, 30, (2, 12), generator=torch.Generator().manual_seed(4))
    mask = torch.arange(12)[None] < torch.tensor([[12], [7]])


def biased():
    config = copy.deepcopy(small_model().config)
    config.attention_bias = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = type(small_model())(config).eval().requires_grad_(True)
        for layer in model.model.layers:
            torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    return model


def test_the_mean_of_what_a_layer_gives_is_that_of_the_unrounded_one():
    model, plain, kept = biased(), biased(), biased()
    begun = model(Batch.ids).logits
    moved = {"q": Moved(FakeQuant(bits=2, correct_bias=True), {"from": 0, "to": 1})}
    transforms = Transforms(model, moved, Timetable(4))
    transforms.at(0)
    transforms.finish(model, [Batch()])
    assert torch.equal(model(Batch.ids).logits, begun)  # at strength 0 nothing is
    transforms.at(4)
    layer, inputs = model.model.layers[2].self_attn.q_proj, []
    hook = layer.register_forward_pre_hook(lambda m, x: inputs.append(x[0]))
    transforms.finish(model, [Batch()])
    hook.remove()
    put_transformed(model, plain)
    put_untransformed(model, kept)
    for name, weight in biased().named_parameters():
        assert torch.equal(kept.get_parameter(name), weight), name
    rows = inputs[0][Batch.mask]
    exact, rounded = (
        m.model.layers[2].self_attn.q_proj(rows).mean(0) for m in (kept, plain)
    )
    torch.testing.assert_close(rounded, exact, atol=1e-5, rtol=1e-4)
    unshifted = rows @ plain.model.layers[2].self_attn.q_proj.weight.T
    unshifted = unshifted.mean(0) + kept.model.layers[2].self_attn.q_proj.bias
    assert float((unshifted - exact).abs().max()) > 1e-2
    assert torch.equal(plain(Batch.ids).logits, model(Batch.ids).logits)


def test_where_there_is_no_bias_it_is_said_or_refused():
    with pytest.raises(InputError, match="no layer that is rounded has a bias"):
        FakeQuant(correct_bias=True).attach(small_model())
    transform = FakeQuant(correct_bias=True)
    transform.attach(biased())  # of seven layers a block four
    assert "16 biases to correct, 12 layers have none" in transform.says()


@pytest.mark.parametrize("turned", [False, True])
def test_all_batches_count_by_their_tokens_also_where_a_layer_lies_on_its_side(turned):
    from transformers.pytorch_utils import Conv1D

    drawn = torch.Generator().manual_seed(6)
    layer = Conv1D(3, 5) if turned else torch.nn.Linear(5, 3)
    weight, rounded = (torch.randn(3, 5, generator=drawn) for _ in "wr")
    layer.weight = torch.nn.Parameter(weight.T.contiguous() if turned else weight)

    class Rounded(torch.nn.Module):
        def forward(self, given):
            return rounded.T if turned else rounded

    torch.nn.utils.parametrize.register_parametrization(
        layer, "weight", Rounded(), unsafe=True
    )
    attach_shifts([layer])
    shown = [
        torch.randn(2, 4, 5, generator=drawn),
        torch.randn(1, 6, 5, generator=drawn),
    ]
    masks = [torch.arange(4)[None] < torch.tensor([[4], [1]]), torch.ones(1, 6) > 0]
    batches = [
        SimpleNamespace(ids=x, mask=m) for x, m in zip(shown, masks, strict=True)
    ]
    correct(lambda input_ids, **_: layer(input_ids), [layer], batches)
    mean = torch.cat([x[m] for x, m in zip(shown, masks, strict=True)]).mean(0)
    shift = layer.parametrizations["bias"][0].shift
    torch.testing.assert_close(shift, (rounded - weight) @ mean)
    torch.testing.assert_close(
        layer.bias, layer.parametrizations["bias"].original - shift
    )
