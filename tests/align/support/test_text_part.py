import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5Model

from align.support.text_part import text_modules
from teacher import KVCapture
from teacher.capture.limits import position_limit
from teacher.loading.longer_texts import extend_context, trained_length
from teacher.loading.quantise import linear_layers
from tests.composites import gemma3, gemma3_text, git, mllama


@pytest.mark.parametrize("build", [gemma3, git, mllama])
def test_towers_are_left_out_and_the_text_model_is_whole(build):
    model = build()
    inside = text_modules(model)
    left = {n for n, _ in model.named_modules()} - inside.keys()
    assert any("vision" in name or "image_encoder" in name for name in left)
    assert not any("vision" in n or "image_encoder" in n for n in inside)
    assert {id(m) for m in model.get_input_embeddings().modules()} <= {
        id(m) for m in inside.values()
    }
    assert inside and all(model.get_submodule(n) is m for n, m in inside.items())


@pytest.mark.parametrize(
    "model",
    [
        GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10)),
        T5Model(T5Config(vocab_size=9, d_model=8, d_kv=4, num_heads=2, num_layers=1)),
        torch.nn.Linear(2, 2),
    ],
)
def test_a_model_of_text_alone_is_all_of_it(model):
    assert list(text_modules(model)) == [name for name, _ in model.named_modules()]


def test_a_composite_teacher_has_the_limits_and_keys_of_its_text_model():
    """Fails when the tower's table of 4 positions is taken for the text's."""
    whole = gemma3().eval()
    alone = gemma3_text(whole).eval()
    assert position_limit(whole) is position_limit(alone) is None
    assert position_limit(git()) == 40
    assert trained_length(whole) == trained_length(alone) == 128
    ids = torch.arange(20)[None]
    seen = [KVCapture(m)(ids, ids >= 0, logits=True) for m in (whole, alone)]
    assert torch.equal(seen[0].kv.k, seen[1].kv.k)
    assert torch.equal(seen[0].logits, seen[1].logits)


def test_a_longer_text_slows_the_rotation_of_a_composite_as_of_its_text_model():
    whole = gemma3()
    alone = gemma3_text(whole)
    for model in (whole, alone):
        assert extend_context(model, 256, lambda base, width, scale: base * scale)
    slowed = {n: b for n, b in alone.named_buffers() if "inv_freq" in n}
    assert slowed
    for name, buffer in slowed.items():
        inside = name.replace("model.", "model.language_model.")
        assert torch.equal(whole.get_buffer(inside), buffer), name


def test_linear_layers_of_a_tower_are_not_quantised():
    layers = linear_layers(gemma3())
    assert len(layers) == 14  # q, k, v, o, gate, up, down in each of two layers
    assert all(name.startswith("model.language_model.") for name in layers)
