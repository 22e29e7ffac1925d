"""Corrected biases: the mean of a layer's output is that of the unrounded one."""

import copy

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
