import copy

import pytest
import torch

from align.head_dim_adapter import MultiTeacherHeadDimAdapter
from align.views import Injection
from teacher.capture.attention_sites import noted_positions
from teacher.capture.kv_capture import KVCapture

pytestmark = pytest.mark.edges

DECODERS = [
    "gpt2", "opt", "llama", "llama3", "yarn", "linear", "dynamic", "longrope",
    "proportional", "mistral", "mistral_wide", "qwen2", "qwen3", "gpt_neox", "phi",
    "gemma2", "gemma3", "cohere", "cohere2", "smollm3", "olmo2", "glm", "glm4",
    "gpt_oss", "phi3",
]  # fmt: skip
LATENT = ["deepseek_v3", "deepseek_v3_halves"]  # keys wider than values
PARTLY = ["qwen3_next", "gemma3n"]  # some layers without keys and values of their own
ENCODERS = ["bert", "roberta", "distilbert", "modernbert"]
SHARED = ["albert"]  # has no gradient checkpointing
BOTH = ["t5", "bart"]
PROJECTION = {  # what makes content keys, and nothing after it but the rotation
    "opt": "k_proj", "llama": "k_proj", "llama3": "k_proj", "yarn": "k_proj",
    "linear": "k_proj", "dynamic": "k_proj", "mistral": "k_proj", "qwen2": "k_proj",
    "qwen3": "k_norm", "phi": "k_proj", "gemma2": "k_proj", "gemma3": "k_norm",
    "cohere": "k_proj", "cohere2": "k_proj", "smollm3": "k_proj", "glm": "k_proj",
    "gpt_oss": "k_proj", "longrope": "k_proj", "proportional": "k_proj",
    "mistral_wide": "k_proj", "olmo2": "k_norm", "glm4": "k_proj",
    "qwen3_next": "k_norm", "gemma3n": "k_norm", "bert": "key", "roberta": "key",
    "albert": "key", "distilbert": "k_lin",
}  # fmt: skip


def _library_cache(model, ids, mask):
    """Keys and values of the library's own cache by layer, positions, and logits.

    Latent attention caches what it expands into keys and values by itself.
    """
    attention, positions = {}, {}

    def note(module, args, kwargs):
        attention[module.layer_idx] = module
        positions[module.layer_idx] = noted_positions(module, args, kwargs)

    for module in model.modules():
        if type(module).__name__.endswith("Attention") and hasattr(module, "layer_idx"):
            module.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        out = model(ids, attention_mask=mask.long(), use_cache=True)
        stored = {}
        for layer, found in enumerate(out.past_key_values.layers):
            if getattr(found, "keys", None) is None:
                continue
            stored[layer] = found.keys, found.values
            if hasattr(attention[layer], "expand_kv"):
                stored[layer] = attention[layer].expand_kv(*stored[layer])
    return stored, positions, out.logits


@pytest.mark.parametrize("name", [*DECODERS, *LATENT, *PARTLY])
def test_rerotated_content_keys_equal_the_library_cache(make_model, batch, name):
    model = make_model(name)
    ids, mask = batch
    cache, positions, logits = _library_cache(copy.deepcopy(model), ids, mask)
    capture = KVCapture(model)
    with torch.no_grad():
        got = capture(ids, mask, logits=True)
    assert capture.layer_numbers == sorted(cache)
    assert got.kv.num_layers == capture.num_layers == len(cache)
    for layer, number in enumerate(capture.layer_numbers):
        key, rotation = got.kv.k[layer], capture._layers[layer].rotation
        if rotation is not None:
            key = rotation.rotate(key, positions[number])
        keys, values = cache[number]
        kept = keys.shape[2]  # a sliding window forgets the beginning
        torch.testing.assert_close(key[:, :, -kept:], keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.kv.v[layer][:, :, -kept:], values)
    torch.testing.assert_close(got.logits[mask], logits[mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gpt2"])
def test_what_attends_is_found_whatever_its_class_is_called(make_model, batch, name):
    def read(model):
        capture = KVCapture(model)
        with torch.no_grad():
            return capture(*batch).kv

    model = make_model(name)
    for module in model.modules():
        kind = type(module)
        if kind.__name__.endswith("Attention"):
            facts = {"__module__": kind.__module__}
            module.__class__ = type("Mixing", (kind,), facts)
    known, other = read(make_model(name)), read(model)
    assert torch.equal(other.k, known.k) and torch.equal(other.v, known.v)


def test_ids_and_positions_are_left_to_what_is_called_attention_and_reads_them(
    make_model, batch
):
    class AttentionPositions(torch.nn.Module):
        def forward(self, positions):
            return positions

    def read(model):
        with torch.no_grad():
            return KVCapture(model)(*batch).kv

    plain, model = make_model("llama"), make_model("llama")
    rotary, embedding = model.model.rotary_emb, model.model.embed_tokens
    embedding.__class__ = type("AttentionEmbedding", (torch.nn.Embedding,), {})

    class Rotary(type(rotary)):
        def forward(self, x, position_ids):
            return super().forward(x, self.places(position_ids))

    rotary.__class__, rotary.places = Rotary, AttentionPositions()
    got, known = read(model), read(plain)
    assert torch.equal(got.k, known.k) and torch.equal(got.v, known.v)


@pytest.mark.parametrize("name", ["llama", "yarn", "gpt_neox", "cohere", "deepseek_v3"])
def test_in_bf16_rerotated_keys_are_the_cache_but_for_two_roundings(
    make_model, batch, name
):
    model = make_model(name).to(torch.bfloat16)
    ids, mask = batch
    cache, positions, logits = _library_cache(copy.deepcopy(model), ids, mask)
    capture = KVCapture(model)
    with torch.no_grad():
        got = capture(ids, mask, logits=True)
    assert got.logits[mask].equal(logits[mask])
    for layer, (keys, values) in cache.items():
        key = capture._layers[layer].rotation.rotate(got.kv.k[layer], positions[layer])
        # a pair is rounded to 2^-9 of its length, at removal and at return
        error = (key.float() - keys.float()).abs().max() / keys.float().abs().max()
        assert error <= 2**-7
        assert got.kv.v[layer].equal(values)


@pytest.mark.parametrize("name", sorted(PROJECTION))
def test_content_keys_are_the_projection_before_rotation(make_model, batch, name):
    model = make_model(name)
    ids, mask = batch
    before = []
    for module_name, module in model.named_modules():
        if module_name.endswith("." + PROJECTION[name]):
            module.register_forward_hook(lambda _m, _i, out: before.append(out))
    capture = KVCapture(model)
    before.clear()
    with torch.no_grad():
        got = capture(ids, mask, hidden=True)
    heads, size = capture.num_kv_heads, capture.k_dim
    assert len(before) == capture.num_layers
    for layer, out in enumerate(before):
        out = out.view(2, 12, heads, size) if out.ndim == 3 else out
        out = out if out.shape[1] == heads else out.transpose(1, 2)
        torch.testing.assert_close(got.kv.k[layer], out, atol=1e-5, rtol=1e-5)


def test_content_keys_of_fused_partial_rotation(make_model, batch):
    model = make_model("gpt_neox")
    fused = []
    for block in model.gpt_neox.layers:
        block.attention.query_key_value.register_forward_hook(
            lambda _m, _i, out: fused.append(out)
        )
    capture = KVCapture(model)
    fused.clear()
    got = capture(*batch, hidden=True)
    for layer, out in enumerate(fused):
        keys = out.view(2, 12, 4, 24).transpose(1, 2).chunk(3, dim=-1)[1]
        torch.testing.assert_close(got.kv.k[layer], keys, atol=1e-6, rtol=1e-5)
    assert capture._layers[0].rotation is not None


@pytest.mark.parametrize("name", LATENT)
def test_content_keys_of_latent_attention_are_both_parts_of_every_head(
    make_model, batch, name
):
    model = make_model(name)
    latents, expanded = [], []
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.kv_a_proj_with_mqa.register_forward_hook(
            lambda _m, _i, out: latents.append(out)
        )
        attention.kv_b_proj.register_forward_hook(
            lambda _m, _i, out: expanded.append(out)
        )
    capture = KVCapture(model)
    for heard in (latents, expanded):  # by the probe
        heard.clear()
    with torch.no_grad():
        got = capture(*batch, hidden=True).kv
    assert (capture.num_kv_heads, capture.k_dim, capture.v_dim) == (4, 16, 12)
    for layer in range(2):
        own = expanded[layer].view(2, 12, 4, 8 + 12).transpose(1, 2)
        shared = latents[layer][..., 16:]  # the part that will be rotated
        if name == "deepseek_v3":  # which also moves even entries before odd ones
            shared = torch.cat([shared[..., ::2], shared[..., 1::2]], dim=-1)
        torch.testing.assert_close(got.k[layer][..., :8], own[..., :8])
        torch.testing.assert_close(got.v[layer], own[..., 8:])
        expected = shared[:, None].expand(2, 4, 12, 8)
        torch.testing.assert_close(got.k[layer][..., 8:], expected)


def test_latent_attention_is_brought_to_a_student_s_widths(make_model, batch):
    capture = KVCapture(make_model("deepseek_v3"))
    kv = capture(*batch).kv
    heads = capture.num_kv_heads
    widths = (heads * capture.k_dim, heads, heads * capture.v_dim)
    (found,) = MultiTeacherHeadDimAdapter([widths], 16, 2, student_v_dim=16)([kv])
    assert found.k.shape == found.v.shape == (2, 2, 2, 12, 8)
    assert kv.flat()[1].shape[-1] == 48
    again = kv.from_flat(*kv.flat(), kv.mask, heads)
    assert again.k.equal(kv.k)
    assert again.v.equal(kv.v)


def test_content_keys_of_fused_projections_of_an_encoder(make_model, batch):
    model = make_model("modernbert")
    fused = []
    for module in model.modules():
        if type(module).__name__ == "ModernBertAttention":
            module.Wqkv.register_forward_hook(lambda _m, _i, out: fused.append(out))
    capture = KVCapture(model)
    fused.clear()
    got = capture(*batch, hidden=True).kv
    for layer, out in enumerate(fused):
        _, keys, values = out.view(2, 12, 3, 4, 8).permute(2, 0, 3, 1, 4)
        torch.testing.assert_close(got.k[layer], keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.v[layer], values)


def test_layers_without_kv_of_their_own_are_named_and_left_out(make_model):
    hybrid = KVCapture(make_model("qwen3_next"))
    assert (hybrid.num_layers, hybrid.layer_numbers) == (1, [3])
    assert hybrid.layers_without_kv == dict.fromkeys(range(3), "linear_attention")
    shared = KVCapture(make_model("gemma3n"))
    assert (shared.num_layers, shared.layer_numbers) == (2, [0, 1])
    assert shared.layers_without_kv == {
        2: "reads layer 0's keys and values",
        3: "reads layer 1's keys and values",
    }
    assert KVCapture(make_model("llama")).layers_without_kv == {}


def test_a_padding_embedding_of_zero_hides_no_rotation(make_model):
    # the probe's token 0 may be the padding id, whose embedding is 0
    model = make_model("llama")
    model.model.embed_tokens.weight.data[0] = 0
    assert KVCapture(model).has_rotary
    model.model.layers[1].self_attn.k_proj.weight.data.zero_()
    with pytest.raises(ValueError, match="keys that are all 0"):
        KVCapture(model)


def test_layers_without_rotation_are_found_among_rotating_ones(make_model):
    # SmolLM3 hands position embeddings to every layer; the second ignores them
    capture = KVCapture(make_model("smollm3"))
    assert [layer.rotation is not None for layer in capture._layers] == [True, False]
    learned = KVCapture(make_model("gpt2"))
    assert not learned.has_rotary


@pytest.mark.parametrize("name", [*DECODERS, *LATENT, *PARTLY, *ENCODERS, *SHARED])
def test_grouped_heads_sizes_and_direction_are_reported(make_model, name):
    capture = KVCapture(make_model(name))
    grouped = capture.model.config.to_dict().get("num_key_value_heads") or 4
    sizes = (4, 16, 12) if name in LATENT else (grouped, 8, 8)
    assert (capture.num_kv_heads, capture.k_dim, capture.v_dim) == sizes
    assert capture.hidden_size == 32
    assert capture.causal == (name not in (*ENCODERS, *SHARED))
    assert capture.dtype == torch.float32


def test_the_width_is_that_of_the_hidden_state_handed_out(make_model, batch):
    # OPT-350m projects its last hidden state to the width of its embeddings
    capture = KVCapture(make_model("opt", word_embed_proj_dim=16))
    seen = capture(*batch, hidden=True)
    assert capture.hidden_size == seen.hidden.shape[-1] == 16


@pytest.mark.parametrize("name", [*DECODERS, *LATENT, *PARTLY, *ENCODERS, *SHARED])
def test_logits_are_those_of_the_plain_forward(make_model, batch, name):
    model = make_model(name)
    ids, mask = batch
    with torch.no_grad():
        plain = model(ids, attention_mask=mask.long()).logits
        got = KVCapture(model)(ids, mask, logits=True).logits
        again = model(ids, attention_mask=mask.long()).logits
    assert got.equal(plain)
    assert again.equal(plain)


def _key_projections(model, which):
    stack = model.get_encoder() if which == "encoder" else model.get_decoder()
    if hasattr(stack, "layers"):
        name = "encoder_attn" if which == "cross" else "self_attn"
        return [getattr(layer, name).k_proj for layer in stack.layers]
    layers = [block.layer[1 if which == "cross" else 0] for block in stack.block]
    if which == "cross":
        return [layer.EncDecAttention.k for layer in layers]
    return [layer.SelfAttention.k for layer in layers]


@pytest.mark.parametrize("which", ["encoder", "decoder", "cross"])
@pytest.mark.parametrize("name", BOTH)
def test_keys_of_both_stacks_are_those_of_their_projections(
    make_model, batch, name, which
):
    model = make_model(name)
    ids, mask = batch
    keys = []
    for projection in _key_projections(model, which):
        projection.register_forward_hook(lambda _m, _i, out: keys.append(out))
    capture = KVCapture(model, which=which)
    assert capture.num_layers == (2 if which == "encoder" else 3)
    assert not capture.causal
    keys.clear()
    got = capture(ids, mask).kv  # with gradients: nothing ends early
    assert got.k.requires_grad
    assert got.k.shape == (capture.num_layers, 2, 4, 12, 8)
    for layer, out in enumerate(keys):
        expected = out.view(2, 12, 4, 8).transpose(1, 2)
        torch.testing.assert_close(got.k[layer], expected)


@pytest.mark.parametrize("name", BOTH)
def test_decoder_and_cross_equal_the_library_cache(make_model, batch, name):
    model = make_model(name)
    ids, mask = batch
    with torch.no_grad():
        out = copy.deepcopy(model)(
            input_ids=ids,
            attention_mask=mask.long(),
            decoder_input_ids=ids,
            decoder_attention_mask=mask.long(),
            use_cache=True,
        )
        decoder = KVCapture(model, which="decoder")(ids, mask, logits=True)
        cross = KVCapture(model, which="cross")(ids, mask)
    cache = out.past_key_values
    for layer in range(3):
        own, other = cache.self_attention_cache, cache.cross_attention_cache
        # the library's keys behind padding are as arbitrary as ours
        torch.testing.assert_close(decoder.kv.k[layer], own.layers[layer].keys)
        torch.testing.assert_close(decoder.kv.v[layer], own.layers[layer].values)
        torch.testing.assert_close(cross.kv.k[layer], other.layers[layer].keys)
        torch.testing.assert_close(cross.kv.v[layer], other.layers[layer].values)
    torch.testing.assert_close(decoder.logits, out.logits, atol=1e-4, rtol=1e-4)


def test_encoder_is_the_default_for_encoder_decoders(make_model, batch):
    model = make_model("t5")
    ids, mask = batch
    expected = model.encoder(ids, attention_mask=mask.long()).last_hidden_state
    capture = KVCapture(model)
    assert capture.which == "encoder"
    got = capture(ids, mask, hidden=True)
    torch.testing.assert_close(got.hidden, expected)
    with pytest.raises(ValueError, match="no language-model head"):
        capture(ids, mask, logits=True)
    with pytest.raises(ValueError, match="'self' does not fit T5For"):
        KVCapture(model, which="self")


@pytest.mark.parametrize("name", [*DECODERS, *LATENT, *PARTLY, *ENCODERS, *BOTH])
def test_checkpointing_changes_no_gradient_of_a_kv_loss(make_model, batch, name):
    def gradients(checkpointing):
        model = make_model(name).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        capture = KVCapture(model)
        rows = None if name == "gpt_oss" else torch.tensor([[3, 5], [2, 6]])
        torch.manual_seed(3)  # dropout is on
        logits = capture.has_logits
        got = capture(*batch, logits=logits, hidden=not logits, attention_rows=rows)
        real = batch[1][None, :, None, :, None]
        loss = (got.kv.k * real).square().mean() + (got.kv.v * real).cos().mean()
        output = got.logits if logits else got.hidden
        loss = loss + output[batch[1]].logsumexp(-1).mean()
        if rows is not None:
            loss = loss + got.attention.square().mean()
        loss.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    keys = ("k_proj", "c_attn", "key", "k_lin", "Wqkv", "qkv_proj", "kv_a_proj", ".k.")
    assert any(part in n for n in plain for part in keys)
    for name_, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name_], gradient, atol=1e-6, rtol=1e-5)


def test_reentrant_checkpointing_is_refused(make_model, batch):
    model = make_model("llama").train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    capture = KVCapture(model)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        capture(*batch)
    with torch.no_grad():  # without gradients there is nothing to cut
        capture(*batch)


@pytest.mark.parametrize("name", [*DECODERS, *LATENT, *PARTLY])
def test_injecting_the_own_content_gives_the_own_logits(make_model, batch, name):
    capture = KVCapture(make_model(name))
    ids, mask = batch
    with torch.no_grad():
        own = capture(ids, mask, logits=True)
        layers = list(range(capture.num_layers))
        inject = Injection(own.kv, layers, mask, torch.ones(len(layers)))
        got = capture(ids, mask, logits=True, inject=inject)
    torch.testing.assert_close(got.logits, own.logits, atol=1e-4, rtol=1e-4)


def test_gate_zero_is_the_identity_and_gate_one_reads_the_other(make_model, batch):
    capture = KVCapture(make_model("qwen2"))
    ids, mask = batch
    other_ids = torch.where(mask, ids.flip(0).clamp(min=3), 0)
    with torch.no_grad():
        own = capture(ids, mask, logits=True)
        other = capture(other_ids, mask).kv.select_layers([1])
        closed = Injection(other, [1], mask, torch.zeros(1))
        opened = Injection(other, [1], mask, torch.ones(1))
        same = capture(ids, mask, logits=True, inject=closed)
        changed = capture(ids, mask, logits=True, inject=opened)
        nowhere = Injection(other, [1], torch.zeros_like(mask), torch.ones(1))
        unmasked = capture(ids, mask, logits=True, inject=nowhere)
    assert same.logits.equal(own.logits)
    assert unmasked.logits.equal(own.logits)
    assert (changed.logits - own.logits)[mask].abs().max() > 1e-3
    torch.testing.assert_close(changed.kv.k, own.kv.k)  # captured before injection


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_reaches_gate_and_injected_kv(make_model, batch, checkpointing):
    model = make_model("llama").train()
    capture = KVCapture(model)
    ids, mask = batch
    with torch.no_grad():
        other = capture(torch.where(mask, ids.flip(0), 0), mask).kv
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    other.k.requires_grad_()
    other.v.requires_grad_()
    gate = torch.full((2,), 0.5, requires_grad=True)
    inject = Injection(other, [0, 1], mask, gate)
    capture(ids, mask, logits=True, inject=inject).logits[mask].sum().backward()
    assert all(g.abs() > 0 for g in gate.grad)
    for tensor in (other.k, other.v):
        assert tensor.grad[:, mask[:, None].expand(2, 2, 12)].abs().sum() > 0
        assert tensor.grad[:, 1, :, 7:].abs().sum() == 0
    assert model.model.layers[0].gradient_checkpointing == checkpointing


def test_gate_gradient_equals_a_finite_difference(make_model, batch):
    capture = KVCapture(make_model("gpt_neox").double())
    ids, mask = batch
    with torch.no_grad():
        other = capture(torch.where(mask, ids.flip(0), 0), mask).kv.select_layers([1])

    def outcome(gate):
        inject = Injection(other, [1], mask, gate)
        return capture(ids, mask, logits=True, inject=inject).logits[mask].sum()

    gate = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outcome, (gate,), eps=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5"])
def test_a_kv_only_teacher_stops_at_its_last_asked_layer(make_model, batch, name):
    model = make_model(name)
    capture = KVCapture(model)
    ran = []
    for index, layer in enumerate(capture._layers):
        layer.module.register_forward_hook(lambda *_, i=index: ran.append(i))
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda *_: ran.append("head"))
    with torch.no_grad():
        first = capture(*batch, layers=[0]).kv
        assert ran == []  # not even layer 0's own attention finished
        every = capture(*batch, hidden=True).kv
        assert ran == [0, 1]
        capture(*batch, layers=[1])
        assert ran == [0, 1, 0]
    assert first.k.equal(every.k[:1])


def test_layers_come_in_the_asked_order(make_model, batch):
    capture = KVCapture(make_model("llama"))
    every, some = capture(*batch).kv, capture(*batch, layers=[1, 0]).kv
    assert some.k.equal(every.k[[1, 0]])
    assert some.v.equal(every.v[[1, 0]])


@pytest.mark.parametrize(
    "name", ["gpt2", "opt", "llama", "mistral", "gpt_neox", "gemma2", "glm", "bert"]
)
def test_attention_rows_equal_the_head_mean_of_eager_attention(make_model, batch, name):
    model = make_model(name)
    ids, mask = batch
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    rows = torch.tensor([[0, 3, 11], [6, 2, 5]])
    with torch.no_grad():
        full = eager(ids, attention_mask=mask.long(), output_attentions=True)
        got = KVCapture(model)(ids, mask, attention_rows=rows).attention
    assert got.shape == (2, 2, 3, 12)
    assert got.dtype == torch.float32
    for layer, probabilities in enumerate(full.attentions):
        mean = probabilities.mean(1)
        expected = torch.stack([mean[0, rows[0]], mean[1, rows[1]]])
        torch.testing.assert_close(got[layer], expected, atol=1e-5, rtol=1e-4)


def test_attention_rows_include_t5_position_bias(make_model, batch):
    model = make_model("t5")
    ids, mask = batch
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    rows = torch.tensor([[0, 9], [6, 2]])
    with torch.no_grad():
        full = eager.encoder(ids, attention_mask=mask.long(), output_attentions=True)
        got = KVCapture(model)(ids, mask, attention_rows=rows).attention
    for layer, probabilities in enumerate(full.attentions):
        mean = probabilities.mean(1)
        expected = torch.stack([mean[0, rows[0]], mean[1, rows[1]]])
        torch.testing.assert_close(got[layer], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "yarn", "glm", "gemma3", "bert"])
def test_bf16_models_give_bf16_content_near_float32(make_model, batch, name):
    exact = KVCapture(make_model(name))
    rounded = KVCapture(make_model(name).to(torch.bfloat16))
    assert rounded.dtype == torch.bfloat16
    with torch.no_grad():
        want = exact(*batch, layers=[0]).kv
        got = rounded(*batch, layers=[0]).kv
    assert got.k.dtype == got.v.dtype == torch.bfloat16
    error = (got.k.float() - want.k).norm() / want.k.norm()
    assert error < 0.02
    assert [x.rotation is None for x in rounded._layers] == [
        x.rotation is None for x in exact._layers
    ]


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "deepseek_v3"])
def test_one_layer_and_one_token_are_enough(make_model, name):
    model = make_model(name, num_hidden_layers=1)
    capture = KVCapture(model)
    ids = torch.tensor([[5], [7]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        seen = capture(ids, mask, logits=True)
        expected = model(ids, attention_mask=mask.long()).logits
    assert seen.kv.num_layers == seen.kv.num_tokens == 1
    torch.testing.assert_close(seen.logits, expected, rtol=0, atol=0)


def test_a_text_without_tokens_gives_finite_numbers(make_model):
    capture = KVCapture(make_model("llama"))
    ids = torch.tensor([[5, 6, 7], [0, 0, 0]])
    mask = torch.tensor([[True, True, True], [False, False, False]])
    got = capture(ids, mask, logits=True)
    assert got.logits.isfinite().all()
    assert got.kv.k.isfinite().all()
    assert not got.kv.mask[1].any()


def test_two_captures_of_one_model_and_its_copy_do_not_mix(make_model, batch):
    model = make_model("llama")
    first, second = KVCapture(model), KVCapture(model)
    twin = KVCapture(copy.deepcopy(model))
    with torch.no_grad():
        expected = first(*batch).kv.k
        assert second(*batch).kv.k.equal(expected)
        assert twin(*batch).kv.k.equal(expected)
        plain = model(batch[0], attention_mask=batch[1].long()).logits
        torch.testing.assert_close(first(*batch, logits=True).logits, plain)


def test_capture_leaves_training_mode_random_state_and_saved_config(
    make_model, tmp_path
):
    model = make_model("gpt2").train()
    model.transformer.h[0].eval()
    state = torch.get_rng_state()
    KVCapture(model)
    assert model.training
    assert not model.transformer.h[0].training
    assert torch.get_rng_state().equal(state)
    model.save_pretrained(tmp_path)
    assert "mtkd" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert", "roberta"])
def test_texts_beyond_learned_positions_are_refused(make_model, name):
    capture = KVCapture(make_model(name))
    longest = 32  # of RoBERTa's 33 rows the first is for padding
    assert capture.max_tokens == longest
    for tokens in (longest, longest + 1):
        ids = torch.full((1, tokens), 5)
        mask = torch.ones_like(ids, dtype=torch.bool)
        if tokens == longest:
            capture(ids, mask)
        else:
            with pytest.raises(ValueError, match=f"truncate to max_length={longest}"):
                capture(ids, mask)


def test_wrong_arguments_are_named(make_model, batch):
    ids, mask = batch
    capture = KVCapture(make_model("llama"))
    with pytest.raises(ValueError, match=r"layers \[2\].*0\.\.1"):
        capture(ids, mask, layers=[2])
    gap = mask.clone()
    gap[1, 3] = False
    with pytest.raises(ValueError, match=r"mask\[1\] has padding between"):
        capture(ids, gap)
    for empty in (ids[:0], ids[:, :0]):
        with pytest.raises(ValueError, match=r"give \(B, T\), B >= 1 and T >= 1"):
            capture(empty, empty.bool())
    with pytest.raises(ValueError, match=r"mask is torch.int64"):
        capture(ids, mask.long())
    kv = capture(ids, mask).kv
    with pytest.raises(ValueError, match=r"inject.gate has shape \(1,\); give \(2,\)"):
        capture(ids, mask, inject=Injection(kv, [0, 1], mask, torch.ones(1)))
    with pytest.raises(ValueError, match=r"inject.kv has shapes"):
        capture(ids, mask, inject=Injection(kv, [0], mask, torch.ones(1)))
    with pytest.raises(ValueError, match="valid are auto, self"):
        KVCapture(capture.model, which="both")


def test_unsupported_models_are_refused_by_name():
    import transformers as tf

    small = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2}
    mamba = tf.MambaForCausalLM(tf.MambaConfig(**small, state_size=4))
    with pytest.raises(ValueError, match="MambaForCausalLM cannot be captured"):
        KVCapture(mamba)
    rwkv = tf.RwkvForCausalLM(tf.RwkvConfig(**small, context_length=16))
    with pytest.raises(ValueError, match="RwkvForCausalLM cannot be captured"):
        KVCapture(rwkv)
    bypassing = (
        tf.BloomForCausalLM(tf.BloomConfig(**small, n_head=2)),
        tf.FalconForCausalLM(tf.FalconConfig(**small, num_attention_heads=2)),
        tf.GPTJForCausalLM(
            tf.GPTJConfig(
                vocab_size=20, n_embd=16, n_layer=2, n_head=2, rotary_dim=4,
                bos_token_id=1, eos_token_id=2,
            )
        ),
    )  # fmt: skip
    for model in bypassing:
        name = type(model).__name__
        with pytest.raises(ValueError, match=f"{name} cannot.*bypasses the attention"):
            KVCapture(model)
    complex_rotation = tf.DeepseekV2ForCausalLM(
        tf.DeepseekV2Config(
            **small, num_attention_heads=2, kv_lora_rank=8, q_lora_rank=None,
            qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
            intermediate_size=16, first_k_dense_replace=2,
        )
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"DeepseekV2For.* cannot be undone"):
        KVCapture(complex_rotation)
    with pytest.raises(TypeError, match="got Linear"):
        KVCapture(torch.nn.Linear(2, 2))


def test_a_rotation_that_cannot_be_undone_is_refused(make_model, monkeypatch):
    model = make_model("llama")
    python_module = __import__(type(model).__module__, fromlist=["x"])
    true = python_module.apply_rotary_pos_emb

    def shifted(q, k, cos, sin, unsqueeze_dim=1):
        # adds a position-dependent term, so the negative angle is no inverse
        return true(q + cos.unsqueeze(1), k + cos.unsqueeze(1), cos, sin)

    monkeypatch.setattr(python_module, "apply_rotary_pos_emb", shifted)
    with pytest.raises(ValueError, match="depend on position"):
        KVCapture(model)
