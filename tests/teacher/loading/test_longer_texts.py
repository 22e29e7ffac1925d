from functools import partial

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from align.rope_scale import scaled_base
from teacher.loading.longer_texts import extend_context, trained_length


@pytest.fixture
def llama():
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def test_ntk_raises_the_base_by_the_documented_power(llama):
    assert trained_length(llama) == 64
    assert extend_context(llama, 128, partial(scaled_base, method="ntk"))
    width, base = 16, 10_000 * 2 ** (2 / 3)
    expected = base ** (-torch.arange(0, width, 2).float() / width)
    torch.testing.assert_close(llama.model.rotary_emb.inv_freq, expected)


def test_the_extended_model_equals_one_configured_with_that_base(llama):
    config = LlamaConfig.from_dict(llama.config.to_dict())
    config.rope_parameters = {
        "rope_type": "default",
        "rope_theta": 10_000 * 2 ** (2 / 3),
    }
    other = LlamaForCausalLM(config).eval()
    other.load_state_dict(llama.state_dict())
    extend_context(llama, 128, partial(scaled_base, method="ntk"))
    ids = torch.arange(100)[None] % 50
    with torch.no_grad():
        torch.testing.assert_close(llama(ids).logits, other(ids).logits)


def test_texts_within_the_trained_length_change_nothing(llama):
    before = llama.model.rotary_emb.inv_freq.clone()
    assert not extend_context(llama, 64, partial(scaled_base, method="ntk"))
    assert torch.equal(llama.model.rotary_emb.inv_freq, before)


def test_learned_positions_are_not_rotary():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
    assert trained_length(model) is None
    assert not extend_context(model, 5000, partial(scaled_base, method="ntk"))


def test_linear_divides_every_frequency(llama):
    before = llama.model.rotary_emb.inv_freq.clone()
    assert extend_context(llama, 128, partial(scaled_base, method="linear"), True)
    torch.testing.assert_close(llama.model.rotary_emb.inv_freq, before / 2)
