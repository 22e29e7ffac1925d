import sys

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    Qwen2Config,
    T5Config,
)

from teacher import KVCapture
from teacher.loading.quantise import QuantisedLinear, linear_layers, quantise

pytestmark = pytest.mark.edges

NEGATIVE = (-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911)
POSITIVE = (0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0)
NF4 = torch.tensor([*NEGATIVE, *POSITIVE])
"""As the paper prints them (appendix E), to four digits."""


def qwen():
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def gpt2():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    ).eval()


def t5():
    config = T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    torch.manual_seed(0)
    return AutoModelForSeq2SeqLM.from_config(config).eval()


def test_int8_rounds_each_row_to_whole_parts_of_its_largest():
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[127.0, 1.4, -2.6], [0.0, 12.7, -6.4]])
    held = QuantisedLinear(layer, "int8")
    assert held.weight.tolist() == [[127, 1, -3], [0, 127, -64]]
    expected = torch.tensor([[127.0, 1.0, -3.0], [0.0, 12.7, -6.4]])
    torch.testing.assert_close(held.whole(torch.float32), expected)


def test_int4_takes_the_nearest_of_sixteen_levels_in_each_block():
    torch.manual_seed(0)
    layer = nn.Linear(128, 96, bias=False)
    blocks = layer.weight.detach().view(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    level = (blocks / scale)[..., None].sub(NF4).abs().argmin(-1)
    expected = (NF4[level] * scale).view(96, 128)
    found = QuantisedLinear(layer, "int4").whole(torch.float32)
    # Scales are rounded to 8 bits of their own: some thousandths.
    assert (found - expected).norm() < 0.005 * expected.norm()
    held = sum(p.nbytes for p in QuantisedLinear(layer, "int4").parameters())
    assert held < 0.65 * layer.weight.numel()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_product_and_its_gradient_are_those_of_the_weights_that_are_meant(kind):
    torch.manual_seed(0)
    layer = QuantisedLinear(nn.Linear(64, 32), kind)
    x = torch.randn(2, 5, 64, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    whole = layer.whole(torch.float32)
    expected = other @ whole.T + layer.bias
    torch.testing.assert_close(layer(x), expected)
    layer(x).square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    assert not any(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("build", [qwen, gpt2, t5])
def test_a_quantised_teacher_gives_nearly_the_same_keys_and_values(kind, build):
    model = build()
    ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact = KVCapture(model)(ids, ids >= 0).kv
        layers = len(linear_layers(model))
        assert quantise(model, kind) == layers > 0
        found = KVCapture(model)(ids, ids >= 0).kv
    off = ((found.k - exact.k).norm() / exact.k.norm()).item()
    assert 0 < off < (0.02 if kind == "int8" else 0.5)


def test_embeddings_norms_and_the_head_stay_as_they_are():
    model = qwen()
    names = {n for n, p in model.named_parameters() if p.is_floating_point()}
    quantise(model, "int8")
    assert not linear_layers(model)
    kept = {n for n, p in model.named_parameters() if p.is_floating_point()}
    assert "model.embed_tokens.weight" in kept and "model.norm.weight" in kept
    assert not any("proj.weight" in name for name in kept & names)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_model_computes_in_the_type_that_autocast_asks_for():
    layer = QuantisedLinear(nn.Linear(64, 8), "int8")
    with torch.autocast("cpu", torch.float16):
        assert layer(torch.randn(3, 64)).dtype == torch.float16
    assert layer(torch.randn(3, 64)).dtype == torch.float32


def test_what_cannot_be_quantised_is_refused_with_the_next_step(monkeypatch):
    with pytest.raises(ValueError, match="one of 'none', 'int8', 'int4'"):
        quantise(qwen(), "int3")
    model = qwen()
    quantise(model, "int8")
    with pytest.raises(ValueError, match="no linear layer to hold in int8"):
        quantise(model, "int8")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"mtkd\[quant\].*int8, which needs nothing"):
        quantise(qwen(), "int4")
