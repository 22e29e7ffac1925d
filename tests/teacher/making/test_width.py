"""Fewer channels, heads and entries: exact where what goes adds nothing."""

import pytest
import torch

from align.errors import InputError
from teacher.making.base import Sample
from teacher.making.low_rank import LowRank, lower_rank
from teacher.making.parts import head_size
from teacher.making.ratio import Ratio
from teacher.making.rebuilt import rebuilt
from teacher.making.width import Width
from teacher.making.worth import input_worth

CHANNELS = ("gpt2", "opt", "llama", "qwen2", "qwen3", "gpt_neox", "gemma2", "gemma3")
CHANNELS += ("phi", "phi3", "mistral", "olmo2", "cohere", "smollm3")
GROUPS = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "smollm3")
STREAM = ("llama", "qwen2", "qwen3", "mistral", "smollm3")
DOWN = {"gpt2": "c_proj", "opt": "fc2", "phi": "fc2", "gpt_neox": "dense_4h_to_h"}


@torch.no_grad()
def logits(model, batch):
    return model(input_ids=batch[0]).logits


def same(made, model, batch):
    """Up to the order of sums; norms are taken in float32 whatever a model is in."""
    mask, whole = batch[1], rebuilt(model, {}, model.state_dict())
    left, right = logits(made, batch)[mask], logits(whole, batch)[mask]
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def weights(model, *ends):
    return [p for n, p in model.named_parameters() if n.endswith(ends)]


@pytest.mark.parametrize("family", CHANNELS)
@pytest.mark.parametrize("tied", [True, False])
def test_channels_that_add_nothing_go_and_no_logit_changes(
    family, tied, make_model, batch
):
    model = make_model(family, tie_word_embeddings=tied).double().eval()
    down = DOWN.get(family, "down_proj")
    layers = [
        (name, part)
        for name, part in model.named_modules()
        if name.endswith(f".{down}") and "attn" not in name and "attention" not in name
    ]
    with torch.no_grad():
        for _, part in layers:
            wide = part.weight if family != "gpt2" else part.weight.T
            wide[:, 1::3] = 0
    whole = wide.shape[1]
    kept = whole - len(range(1, whole, 3))
    made = Width(channels=kept)(model, Sample((batch,))).model
    same(made, model, batch)
    assert made.num_parameters() < model.num_parameters()
    assert (
        made.get_output_embeddings().weight is made.get_input_embeddings().weight
    ) is tied


@pytest.mark.parametrize("family", GROUPS)
def test_heads_that_add_nothing_go_and_no_logit_changes(family, make_model, batch):
    model = make_model(family, num_attention_heads=4, num_key_value_heads=2)
    model = model.double().eval()
    size = head_size(model.config)
    with torch.no_grad():
        for weight in weights(model, "o_proj.weight"):
            weight[:, : 2 * size] = 0  # the queries of the first group
    made = Width(groups=1)(model, Sample((batch,))).model
    same(made, model, batch)
    assert made.config.num_key_value_heads == 1 and made.config.num_attention_heads == 2


@pytest.mark.parametrize("family", STREAM)
@pytest.mark.parametrize("tied", [True, False])
def test_entries_of_the_stream_that_are_nought_go_and_no_logit_changes(
    family, tied, make_model, batch
):
    model = make_model(family, tie_word_embeddings=tied).double().eval()
    wide = model.config.hidden_size
    silent = torch.arange(wide) % 4 == 1
    with torch.no_grad():
        model.get_input_embeddings().weight[:, silent] = 0
        for weight in weights(model, "o_proj.weight", "down_proj.weight"):
            weight[silent] = 0
        for name, part in model.named_parameters():
            if name.endswith(("o_proj.bias", "down_proj.bias")):
                part[silent] = 0
    kept = wide - int(silent.sum())
    made = Width(hidden=kept)(model, Sample((batch,))).model
    same(made, model, batch)
    assert made.config.hidden_size == kept


def test_all_of_it_is_the_model_bit_for_bit_and_loads_from_files(
    make_model, batch, tmp_path
):
    from transformers import AutoModelForCausalLM

    model = make_model("qwen2").eval()
    sample = Sample((batch,))
    whole = Width(channels=model.config.intermediate_size)(model, sample).model
    assert torch.equal(logits(whole, batch), logits(model, batch))
    made = Width(channels=5, groups=1, multiple=8)(model, sample).model
    assert made.config.intermediate_size == 8
    made.save_pretrained(tmp_path)
    again, info = AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys"))
    assert torch.equal(logits(again.eval(), batch), logits(made, batch))


def test_worth_is_the_mean_size_of_a_channel_times_its_weights_by_hand(
    make_model, batch
):
    model = make_model("llama").eval()
    place = "model.layers.1.mlp.down_proj"
    part, seen = model.get_submodule(place), []
    hook = part.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits(model, batch)
    hook.remove()
    by_hand = seen[0][batch[1]].abs().double().mean(0) * part.weight.double().norm(
        dim=0
    )
    worth = input_worth(model, Sample((batch,)), [place])[place]
    torch.testing.assert_close(worth, by_hand, rtol=1e-6, atol=0)


def test_a_ratio_cuts_depth_by_itself_and_width_by_its_root(make_model, batch):
    model = make_model("llama", num_hidden_layers=4, num_key_value_heads=4)
    wide = model.config.intermediate_size
    made = Ratio(ratio=0.25)(model.eval(), Sample((batch,)))
    assert made.layers == (3,)
    assert made.model.config.intermediate_size == wide // 2
    assert made.model.config.num_key_value_heads == 2
    assert made.model.config.hidden_size == model.config.hidden_size


def test_lower_rank_is_as_near_as_eckart_and_young_say():
    weight = torch.randn(12, 7, generator=torch.Generator().manual_seed(3))
    values = torch.linalg.svdvals(weight.double())
    energy = values.square().cumsum(0) / values.square().sum()
    near, rank = lower_rank(weight, 0.8)
    assert energy[rank - 1] >= 0.8 > energy[rank - 2]
    assert torch.linalg.matrix_rank(near.double(), rtol=1e-5) == rank
    off = (weight - near).double().norm()
    torch.testing.assert_close(off, values[rank:].norm(), rtol=1e-5, atol=0)


def test_all_energy_is_the_model_bit_for_bit(make_model, batch):
    model = make_model("gpt2").eval()
    made = LowRank(share=1.0)(model).model
    assert torch.equal(logits(made, batch), logits(model, batch))
    less = LowRank(share=0.5)(model)
    assert not torch.equal(logits(less.model, batch), logits(model, batch))
    assert torch.equal(less.model.transformer.wte.weight, model.transformer.wte.weight)


@pytest.mark.parametrize(
    ("family", "options", "told"),
    [
        ("gpt2", {"groups": 1}, "GPT2LMHeadModel cannot be cut by groups: its proj"),
        ("olmo2", {"groups": 1}, "heads are normed together"),
        ("gemma2", {"hidden": 8}, "Gemma2ForCausalLM cannot be cut by hidden"),
        ("llama", {"channels": 9999}, "channels is 9999, but LlamaForCausalLM has"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(
    family, options, told, make_model, batch
):
    with pytest.raises(InputError, match=told):
        Width(**options)(make_model(family).eval(), Sample((batch,)))


def test_numbers_that_cannot_be_meant_are_refused():
    for maker, options in (
        (Width, {"groups": -1}),
        (Width, {"multiple": 0}),
        (Ratio, {"ratio": 0.0}),
        (LowRank, {"share": 1.5}),
    ):
        with pytest.raises(InputError, match="give"):
            maker(**options)
