"""What a capture leaves behind, and what it hears of others: nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from teacher.capture import attention_sites
from teacher.capture.kv_capture import KVCapture
from teacher.loading.models import load_model

pytestmark = pytest.mark.edges


def _traces(model):
    """All that capture could have left on a model or in transformers."""
    modules = [
        (
            sorted(module.__dict__),
            dict(module._forward_hooks),
            dict(module._forward_pre_hooks),
            module.training,
        )
        for module in model.modules()
    ]
    return (
        modules,
        model.config._attn_implementation,
        dict(ALL_ATTENTION_FUNCTIONS._local_mapping),
        dict(AttentionInterface._global_mapping),
        dict(ALL_MASK_ATTENTION_FUNCTIONS),
        dict(attention_sites._detours),
    )


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "bert", "t5", "deepseek_v3"])
def test_nothing_is_left_after_a_forward(make_model, batch, name):
    model = make_model(name)
    before = _traces(model)
    capture = KVCapture(model)
    assert _traces(model) == before
    capture(*batch, hidden=True)
    with torch.no_grad():
        capture(*batch, layers=[0])  # ends early, by an exception of our own
    assert _traces(model) == before


def test_nothing_is_left_after_an_exception(make_model, batch):
    model = make_model("llama")

    def fail(*_):
        raise KeyError("in the middle")

    hook = model.model.layers[1].mlp.register_forward_hook(fail)
    before = _traces(model)
    with pytest.raises(KeyError):
        KVCapture(model)
    assert _traces(model) == before
    hook.remove()
    capture = KVCapture(model)
    hook = model.model.layers[1].mlp.register_forward_hook(fail)
    before = _traces(model)
    with pytest.raises(KeyError):
        capture(*batch, hidden=True)
    assert _traces(model) == before
    hook.remove()
    capture(*batch, hidden=True)  # and it goes on


def test_nothing_is_left_after_a_refusal(make_model, batch):
    model = make_model("llama").train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    capture, before = KVCapture(model), _traces(model)
    with pytest.raises(ValueError, match="re-entrant"):
        capture(*batch)
    assert _traces(model) == before


def test_an_own_choice_of_attention_function_stays(make_model, batch):
    heard = []

    def own(module, *args, **kwargs):
        heard.append(module.layer_idx)
        return sdpa_attention_forward(module, *args, **kwargs)

    model = make_model("llama")
    with torch.no_grad():
        expected = KVCapture(model)(*batch, logits=True)
        ALL_ATTENTION_FUNCTIONS["sdpa"] = own
        try:
            found = KVCapture(model)(*batch, logits=True)
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is own
        finally:
            del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert heard[-2:] == [0, 1]
    assert found.logits.equal(expected.logits)


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_the_model_s_implementation_attends_sdpa_eager_or_flash(
    make_model, batch, monkeypatch, name
):
    names = []

    def flash(module, query, key, value, attention_mask, **options):
        # as flash attention: a padding mask of two axes or none, and a window
        batch, _, tokens, _ = query.shape
        assert attention_mask is None or attention_mask.shape == (batch, tokens)
        assert module.config._attn_implementation == "flash_attention_2"
        names.append("flash")
        place = torch.arange(tokens)
        distance = place[:, None] - place
        window = options.get("sliding_window") or tokens
        allowed = ((distance >= 0) & (distance < window)).expand(batch, 1, -1, -1)
        if attention_mask is not None:
            allowed = allowed & attention_mask[:, None, None].bool()
        allowed = allowed | (~allowed.any(-1, keepdim=True))
        return sdpa_attention_forward(
            module, query, key, value, allowed, scaling=options.get("scaling")
        )

    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", flash)
    ids, mask = batch
    rows = torch.tensor([[0, 11], [6, 2]])
    found = {}
    for implementation in ("sdpa", "eager", "flash_attention_2"):
        model = make_model(name)
        model.config._attn_implementation_internal = implementation
        with torch.no_grad():
            found[implementation] = KVCapture(model)(
                ids, mask, logits=True, attention_rows=rows
            )
        assert model.config._attn_implementation == implementation
    assert names[-2:] == ["flash", "flash"]
    for other in ("eager", "flash_attention_2"):
        for part in ("k", "v"):
            real = mask[None, :, None, :, None]
            expected = getattr(found["sdpa"].kv, part) * real
            got = getattr(found[other].kv, part) * real
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            found[other].logits[mask], found["sdpa"].logits[mask], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            found[other].attention, found["sdpa"].attention, atol=1e-5, rtol=1e-4
        )


def test_two_captured_models_do_not_mix_even_one_within_the_other(make_model, batch):
    ids, mask = batch
    outer, inner = KVCapture(make_model("llama")), KVCapture(make_model("qwen2"))
    twin = make_model("llama")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.1)
        second = KVCapture(twin)
        expected = [capture(ids, mask).kv.k for capture in (outer, inner, second)]
        within = []

        def run_the_others(*_):
            within.append(inner(ids, mask).kv.k)
            within.append(second(ids, mask).kv.k)

        block = outer.model.model.layers[0].mlp
        block.register_forward_hook(run_the_others)
        found = outer(ids, mask).kv.k
    assert found.equal(expected[0])
    assert within[0].equal(expected[1])
    assert within[1].equal(expected[2])


def test_a_second_forward_within_the_same_model_and_thread_is_refused(
    make_model, batch
):
    capture = KVCapture(make_model("llama"))

    def again(*_):
        capture(*batch)

    hook = capture.model.model.layers[0].mlp.register_forward_hook(again)
    with pytest.raises(RuntimeError, match="already being captured by this thread"):
        capture(*batch, hidden=True)
    hook.remove()
    capture(*batch)


def test_another_thread_s_forward_through_the_model_is_not_heard(make_model, batch):
    capture = KVCapture(make_model("llama"))
    ids, mask = batch
    other = ids.roll(3, dims=1)[:, :9]
    everything = torch.ones_like(other, dtype=torch.bool)
    with torch.no_grad():
        expected = capture(ids, mask, hidden=True)
        expected_other = capture(other, everything, hidden=True)
        plain = capture.model(other).logits
    seen, main = {}, threading.get_ident()

    def elsewhere():
        with torch.no_grad():
            seen["plain"] = capture.model(other).logits
            seen["captured"] = capture(other, everything, hidden=True)

    def start(*_):
        if threading.get_ident() == main:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()

    hook = capture.model.model.layers[0].mlp.register_forward_hook(start)
    with torch.no_grad():
        found = capture(ids, mask, hidden=True)
    hook.remove()
    assert seen["plain"].equal(plain)
    for got, want in ((found, expected), (seen["captured"], expected_other)):
        assert got.kv.k.equal(want.kv.k)
        assert got.kv.v.equal(want.kv.v)
        assert got.hidden.equal(want.hidden)


def test_many_threads_capture_one_model_at_once(make_model):
    capture = KVCapture(make_model("gpt_neox"))
    batches = [
        torch.randint(3, 61, (1, 8 + n), generator=torch.Generator().manual_seed(n))
        for n in range(4)
    ]
    barrier = threading.Barrier(len(batches))
    before = _traces(capture.model)

    def read(ids):
        return capture(ids, torch.ones_like(ids, dtype=torch.bool)).kv.k

    def together(ids):
        with torch.no_grad():
            barrier.wait()
            return [read(ids) for _ in range(20)]

    with torch.no_grad():
        expected = [read(ids) for ids in batches]
    with ThreadPoolExecutor(len(batches)) as pool:
        found = list(pool.map(together, batches))
    for want, many in zip(expected, found, strict=True):
        assert all(got.equal(want) for got in many)
    assert _traces(capture.model) == before


@pytest.mark.slow
def test_a_compiled_model_is_captured_or_refused(tiny_zoo):
    """Compiled in place its graph breaks where capture listens; wrapped it is none."""
    model = load_model(tiny_zoo["student"]).model
    model.model.layers = model.model.layers[:1]  # each takes seconds to compile
    model.config.num_hidden_layers = 1
    ids = torch.arange(12)[None]
    plain = KVCapture(model)(ids, ids >= 0, logits=True)
    with pytest.raises(TypeError, match=r"got OptimizedModule; unwrap it first"):
        KVCapture(torch.compile(model, backend="eager"))
    counted = torch._dynamo.utils.counters["stats"]
    for parts in ([model], model.model.layers):
        torch._dynamo.reset()
        for part in parts:
            part.compile(backend="aot_eager")
        graphs = counted["unique_graphs"]
        compiled = KVCapture(model)(ids, ids >= 0, logits=True)
        model._compiled_call_impl = None
        assert counted["unique_graphs"] > graphs  # and not read as it always was
        assert torch.equal(compiled.kv.k, plain.kv.k)
        assert torch.equal(compiled.kv.v, plain.kv.v)
        assert torch.equal(compiled.logits, plain.logits)
