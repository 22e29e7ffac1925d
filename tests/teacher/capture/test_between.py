"""The stream before and after the norm between two layers, and input embeddings."""

import pytest
import torch

from align.errors import InputError
from align.views import EMBEDDINGS, HIDDEN, NORMED, RESIDUAL
from teacher.capture.kv_capture import KVCapture
from tests.teacher.capture.test_kv_capture import BOTH, DECODERS, ENCODERS, SHARED

BEFORE = {  # the norm that a layer begins with, and the last one of all
    "gpt2": ("h", "ln_1", "ln_f"),
    "opt": ("layers", "self_attn_layer_norm", "final_layer_norm"),
    "llama": ("layers", "input_layernorm", "norm"),
    "qwen3": ("layers", "input_layernorm", "norm"),
    "gpt_neox": ("layers", "input_layernorm", "final_layer_norm"),
    "phi": ("layers", "input_layernorm", "final_layernorm"),
    "gemma2": ("layers", "input_layernorm", "norm"),
    "cohere": ("layers", "input_layernorm", "norm"),
    "qwen3_next": ("layers", "input_layernorm", "norm"),
}
AT_THE_END = {
    "bert": ("layer", "output.LayerNorm"),
    "distilbert": ("layer", "output_layer_norm"),
}
WITHIN = ["olmo2"]
"""No norm reads what their layers leave."""


def stack(model, name):
    """The list of layers, and what holds it."""
    return next(
        (module, getattr(module, name))
        for module in model.modules()
        if isinstance(getattr(module, name, None), torch.nn.ModuleList)
    )


def noted(module, store):
    return module.register_forward_hook(
        lambda _m, inputs, out: store.append((inputs, out))
    )


def first(x):
    return x if isinstance(x, torch.Tensor) else x[0]


@pytest.mark.edges
@pytest.mark.parametrize("name", sorted(BEFORE))
def test_a_layer_s_output_is_the_stream_and_the_next_norm_makes_the_other(
    make_model, batch, name
):
    model, (layers, norm, last) = make_model(name), BEFORE[name]
    capture, (ids, mask) = KVCapture(model), batch
    holder, blocks = stack(model, layers)
    outs, ends = [], []
    with torch.no_grad():
        capture(ids, mask, states=(RESIDUAL,))  # learns where norms are
        hooks = [noted(block, outs) for block in blocks]
        hooks.append(noted(getattr(holder, last), ends))
        found = capture(ids, mask, states=(RESIDUAL, NORMED), hidden=True).states
        for hook in hooks:
            hook.remove()
        norms = [getattr(b, norm) for b in blocks[1:]] + [getattr(holder, last)]
        for place, number in enumerate(capture.layer_numbers):
            left = first(outs[number][1])
            torch.testing.assert_close(found[RESIDUAL][place], left)
            torch.testing.assert_close(found[NORMED][place], norms[number](left))
    assert len(ends) == 1  # of one forward


@pytest.mark.edges
@pytest.mark.parametrize("name", sorted(AT_THE_END))
def test_a_norm_at_a_layer_s_end_makes_what_the_next_one_reads(make_model, batch, name):
    model, (layers, norm) = make_model(name), AT_THE_END[name]
    capture, (ids, mask) = KVCapture(model), batch
    _, blocks = stack(model, layers)
    with torch.no_grad():
        capture(ids, mask, states=(RESIDUAL,))
        outs, reads = [], []
        for block in blocks:
            noted(block, outs)
            noted(block.get_submodule(norm), reads)
        found = capture(ids, mask, states=(RESIDUAL, NORMED)).states
    for layer in range(capture.num_layers):
        torch.testing.assert_close(found[NORMED][layer], first(outs[layer][1]))
        torch.testing.assert_close(found[RESIDUAL][layer], reads[layer][0][0])


@pytest.mark.edges
@pytest.mark.parametrize(
    "name", [n for n in (*DECODERS, *ENCODERS, *SHARED, *BOTH) if n not in WITHIN]
)
def test_every_family_gives_both_and_one_of_them_is_what_it_gives_itself(
    make_model, batch, name
):
    capture = KVCapture(make_model(name))
    with torch.no_grad():
        found = capture(*batch, states=(HIDDEN, RESIDUAL, NORMED)).states
    given, residual, normed = (found[kind] for kind in (HIDDEN, RESIDUAL, NORMED))
    for layer in range(capture.num_layers):
        same = [torch.equal(x[layer], given[layer]) for x in (residual, normed)]
        assert sum(same) == 1
    assert torch.equal(normed[-1], given[-1])  # nothing ends without a norm


def test_where_no_norm_reads_the_stream_it_is_there_all_the_same(make_model, batch):
    capture = KVCapture(make_model("olmo2"))
    with torch.no_grad():
        found = capture(*batch, states=(HIDDEN, RESIDUAL)).states
        assert torch.equal(found[RESIDUAL][0], found[HIDDEN][0])
        assert not torch.equal(found[RESIDUAL][1], found[HIDDEN][1])  # the final norm
        with pytest.raises(InputError, match=r"no norm of Olmo2.* state: residual"):
            capture(*batch, states=(NORMED,))


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5", "albert"])
def test_embeddings_are_the_table_s_rows_and_no_layer_runs_for_them(
    make_model, batch, name
):
    model, (ids, mask) = make_model(name), batch
    capture, ran = KVCapture(model), []
    table = capture._forward.stack.get_input_embeddings()
    capture._modules[0].register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        found = capture(ids, mask, layers=(), states=(EMBEDDINGS,)).states
    assert found.keys() == {EMBEDDINGS} and not ran
    torch.testing.assert_close(found[EMBEDDINGS][0][mask], table(ids)[mask])
    assert found[EMBEDDINGS].shape[-1] == capture.sizes.embedding_size
    with torch.no_grad():
        capture(ids, mask, layers=(), states=(EMBEDDINGS,), hidden=True)
    assert ran


def test_only_what_is_asked_for_comes(make_model, batch):
    capture = KVCapture(make_model("llama"))
    with torch.no_grad():
        for asked in ((), (NORMED,), (RESIDUAL, EMBEDDINGS)):
            assert capture(*batch, states=asked).states.keys() == set(asked)
    assert not capture.model.base_model.norm._forward_hooks


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradients_of_the_stream_are_those_without_checkpointing(
    make_model, batch, name
):
    model = make_model(name)
    capture, gradients = KVCapture(model), []
    asked = (RESIDUAL, NORMED, EMBEDDINGS)
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        model.zero_grad()
        found = capture(*batch, states=asked).states
        sum(x.square().mean() for x in found.values()).backward()
        named = model.named_parameters()
        gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys() and len(plain) > 8
    for key, gradient in plain.items():
        torch.testing.assert_close(gradient, recomputed[key], atol=1e-7, rtol=1e-4)
