"""A model with some of another's layers: what it says, and which layers are kept."""

import pytest
import torch
from torch import nn

from align.errors import InputError
from teacher.making.base import Sample
from teacher.making.layers import Layers
from teacher.making.stack import with_layers
from teacher.making.width import Width
from teacher.making.worth import layer_change, layer_importance, mean_loss, search

FAMILIES = ("gpt2", "opt", "llama", "qwen2", "qwen3", "gpt_neox", "gemma2", "gemma3")
FAMILIES += ("phi", "phi3", "mistral", "olmo2", "cohere", "cohere2", "smollm3")


@torch.no_grad()
def logits(model, batch):
    return model(input_ids=batch[0]).logits


def sample_of(batch):
    return Sample((batch,))


@pytest.fixture
def deep(make_model):
    """A Llama of five layers, no two alike."""
    return make_model("llama", num_hidden_layers=5).eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_with_all_layers_no_logit_changes(family, tied, make_model, batch):
    model = make_model(family, tie_word_embeddings=tied).eval()
    made = with_layers(model, range(model.config.num_hidden_layers))
    assert torch.equal(logits(made, batch), logits(model, batch))
    embedding, head = made.get_input_embeddings(), made.get_output_embeddings()
    assert (head.weight is embedding.weight) is tied


EXPERTS = {
    "Mixtral": {"num_local_experts": 3},
    "Qwen2Moe": {"num_experts": 3, "moe_intermediate_size": 8, "mlp_only_layers": [1]},
    "Qwen3Moe": {"num_experts": 3, "moe_intermediate_size": 8},
}


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_go_with_their_layers(family, batch):
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    kind = getattr(transformers, f"{family}ForCausalLM")
    settings = {"vocab_size": 128, "num_experts_per_tok": 2, **EXPERTS[family]}
    model = kind(kind.config_class(**sizes, **heads, **settings)).eval()
    assert torch.equal(
        logits(with_layers(model, range(3)), batch), logits(model, batch)
    )
    made = with_layers(model, [1, 2])
    stack = model.model.layers
    model.model.layers = nn.ModuleList([stack[1], stack[2]])
    model.config.num_hidden_layers = 2
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    assert torch.equal(logits(made, batch), logits(model, batch))
    with pytest.raises(InputError, match="no mixture of experts"):
        Width(channels=4)(made, sample_of(batch))


def test_what_is_left_equals_a_llama_cut_by_hand(deep, batch, make_model):
    by_hand = make_model("llama", num_hidden_layers=5).eval()
    by_hand.load_state_dict(deep.state_dict())
    layers = by_hand.model.layers
    by_hand.model.layers = nn.ModuleList([layers[0], layers[2], layers[3]])
    for index, layer in enumerate(by_hand.model.layers):
        layer.self_attn.layer_idx = index
    by_hand.config.num_hidden_layers = 3
    made = with_layers(deep, [0, 2, 3])
    assert torch.equal(logits(made, batch), logits(by_hand, batch))


def test_kinds_of_layers_go_with_the_layers(make_model):
    model = make_model("cohere2", num_hidden_layers=4)
    kinds = model.config.layer_types
    made = with_layers(model, [1, 3])
    assert made.config.layer_types == [kinds[1], kinds[3]]
    smollm = with_layers(make_model("smollm3"), [1])
    assert smollm.config.no_rope_layers == [0]


@pytest.mark.parametrize("family", ["gemma3", "qwen2", "gpt2", "gpt_neox"])
def test_it_lies_on_disk_as_transformers_loads_it(family, make_model, batch, tmp_path):
    from transformers import AutoModelForCausalLM

    made = with_layers(make_model(family).eval(), [1])
    made.save_pretrained(tmp_path)
    again, info = AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys"))
    assert torch.equal(logits(again.eval(), batch), logits(made, batch))


def test_the_source_is_not_touched_by_what_becomes_of_the_student(deep, batch):
    before = logits(deep, batch)
    made = with_layers(deep, [0, 1])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1.0)
    assert torch.equal(logits(deep, batch), before)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [("uniform", [0, 2, 4]), ("first", [0, 1, 2]), ("floor", [0, 1, 3])],
)
def test_rules_of_depth_keep_these(rule, kept, deep):
    assert Layers(keep=3, rule=rule).kept(deep) == kept


def test_without_a_number_half_are_kept_and_a_list_says_which(deep):
    assert Layers().kept(deep) == [0, 2, 4]
    assert Layers(keep=[1, 4])(deep).layers == (1, 4)


@pytest.mark.parametrize("silent", [1, 3])
@pytest.mark.parametrize("rule", ["importance", "density"])
def test_rules_of_a_sample_leave_out_a_layer_that_does_nothing(
    rule, silent, deep, batch
):
    layer = deep.model.layers[silent]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    maker = Layers(keep=4, rule=rule)
    assert maker.needs_sample
    made = maker(deep, sample_of(batch))
    assert made.layers == tuple(n for n in range(5) if n != silent)
    assert torch.equal(logits(made.model, batch), logits(deep, batch))


def test_importance_is_the_first_order_change_of_the_loss(deep, batch):
    """One token predicts: there the loss moves by u . dL/dh as a layer fades."""
    ids = batch[0][:1, :2]
    sample = Sample(((ids, torch.ones_like(ids, dtype=torch.bool)),))
    worth = layer_importance(deep.double(), sample)
    last, step = deep.model.layers[4], 1e-3
    losses = []
    for share in (1 + step, 1 - step):
        hook = last.register_forward_hook(
            lambda _, args, out, share=share: args[0] + share * (out - args[0])
        )
        with torch.no_grad():
            losses.append(mean_loss(deep, sample).item())
        hook.remove()
    slope = (losses[0] - losses[1]) / (2 * step)
    # of two tokens the second predicts nothing, and no loss moves with it
    assert worth[4].item() == pytest.approx(abs(slope), rel=1e-2)
    assert deep.get_input_embeddings().weight.grad is None


def test_density_is_the_mean_length_of_the_steps_between_hidden_states(deep, batch):
    sample = sample_of(batch)
    ids, mask = sample.batches[0]
    streams = [deep.get_input_embeddings()(ids)]
    hooks = [
        layer.register_forward_hook(lambda _, args, out: streams.append(out))
        for layer in deep.model.layers
    ]
    with torch.no_grad():
        deep(input_ids=ids, attention_mask=mask.long())
    for hook in hooks:
        hook.remove()
    expected = [
        (streams[n + 1] - streams[n]).norm(dim=-1)[mask].mean().item() for n in range(5)
    ]
    assert layer_change(deep, sample).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_search_leaves_out_what_real_cuts_miss_least(deep, batch):
    sample = sample_of(batch)
    losses = {}
    for left_out in range(5):
        kept = [n for n in range(5) if n != left_out]
        with torch.no_grad():
            cut = mean_loss(with_layers(deep, kept), sample)
        losses[left_out] = cut.item()
    least = min(losses, key=losses.__getitem__)
    assert search(deep, sample, 4) == [n for n in range(5) if n != least]


@pytest.mark.parametrize(
    ("keep", "told"),
    [([1, 1], "none twice"), ([3, 9], "0 to 4"), (7, "has 5 layers"), (-1, "keep is")],
)
def test_layers_that_are_not_there_are_refused(keep, told, deep):
    with pytest.raises(InputError, match=told):
        Layers(keep=keep).kept(deep)


def test_families_whose_layers_need_each_other_are_refused_by_name(make_model):
    with pytest.raises(InputError, match="GPT2LMHeadModel has scale_attn_by_inverse"):
        with_layers(make_model("gpt2", scale_attn_by_inverse_layer_idx=True), [0])
    with pytest.raises(InputError, match="BertForMaskedLM is no causal"):
        with_layers(make_model("bert"), [0])
    with pytest.raises(InputError, match="Gemma3nForCausalLM has num_kv_shared_layers"):
        with_layers(make_model("gemma3n"), [0, 1])
