import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, LlamaConfig
from transformers import LlamaForCausalLM as Llama

from align.kv import KV
from align.layer_map import build_multi_teacher_layer_map, interpolate_teacher_layers
from align.support.caches import cache_layers, is_cache
from align.time_align import Alignment, align_sequence_lengths, apply_char_alignment

B, H, T, D = 2, 3, 4, 5
SPLIT = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 0]])
"""Three student tokens of four, the last of them uncovered."""


def pairs(layers=3, tokens=T, seed=0):
    draw = torch.Generator().manual_seed(seed)
    size = (layers, 2, B, H, tokens, D)
    return tuple((k, v) for k, v in torch.randn(size, generator=draw))


def cache_of(layers):
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache


def as_kv(layers):
    keys, values = (torch.stack(part) for part in zip(*layers, strict=True))
    return KV(keys, values, torch.ones(B, keys.shape[3], dtype=torch.bool))


@pytest.mark.parametrize("hold", [lambda x: x, list, cache_of])
def test_a_cache_is_read_whatever_holds_its_layers(hold):
    layers = pairs()
    assert is_cache(hold(layers))
    for found, given in zip(cache_layers(hold(layers)), layers, strict=True):
        assert all(map(torch.equal, found, given))
    assert not is_cache(torch.zeros(2, 3, 4)) and not is_cache([torch.zeros(2, 3)])
    assert not is_cache(as_kv(layers)) and not is_cache([as_kv(layers)])
    assert not is_cache([layers, layers])


def test_a_models_own_cache_is_one():
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    with torch.no_grad():
        cache = Llama(config)(torch.arange(6)[None], use_cache=True).past_key_values
    aligned = apply_char_alignment(cache, torch.full((2, 6), 1 / 6))
    assert [tuple(k.shape) for k, _ in aligned] == [(1, 2, 2, 4)] * 2
    mean = cache_layers(cache)[1][1].mean(2)
    torch.testing.assert_close(aligned[1][1][:, :, 0], mean)


@pytest.mark.parametrize("hold", [lambda x: x, cache_of])
@pytest.mark.parametrize("kind", ["one", "per text", "sparse"])
def test_a_cache_is_aligned_as_the_same_kv_is(hold, kind):
    layers = pairs()
    A = torch.stack([SPLIT, SPLIT.flip(1)])
    sparse = Alignment(
        torch.tensor([0, 1, 1, 3, 4, 4]),
        torch.tensor([0, 1, 2, 7, 5, 6]),
        torch.tensor([1, 0.5, 0.5, 1, 0.5, 0.5]),
        (B, 3, T),
    )
    matrix = {"one": SPLIT, "per text": A, "sparse": sparse}[kind]
    expected = apply_char_alignment(as_kv(layers), matrix)
    found = as_kv(apply_char_alignment(hold(layers), matrix))
    torch.testing.assert_close(found.k, expected.k)
    torch.testing.assert_close(found.v, expected.v)
    t, s, t_mask, s_mask = align_sequence_lengths(hold(layers), pairs(1, 3), matrix)
    assert t[0][0].shape == s[0][0].shape == (B, H, 3, D)
    assert t_mask.shape[-1] == 3 and not t_mask[..., 2].any() and s_mask.all()


def test_the_shorter_cache_is_padded():
    teacher, student, t_mask, s_mask = align_sequence_lengths(
        cache_of(pairs(2, 3)), pairs(1, 5)
    )
    assert teacher[1][0].shape == student[0][1].shape == (B, H, 5, D)
    assert torch.equal(teacher[1][0][:, :, :3], pairs(2, 3)[1][0])
    assert not teacher[1][0][:, :, 3:].any()
    assert (t_mask.tolist(), s_mask.tolist()) == ([True] * 3 + [False] * 2, [True] * 5)


@pytest.mark.parametrize("hold", [lambda x: x, list, cache_of])
def test_layers_of_a_cache_are_mixed_as_those_of_the_same_kv(hold):
    layers, maps = pairs(4), build_multi_teacher_layer_map([4], 3)
    expected = interpolate_teacher_layers([as_kv(layers)], maps, 3)[0]
    (listed,) = interpolate_teacher_layers([hold(layers)], maps, 3)
    alone = interpolate_teacher_layers(hold(layers), maps[0], 3)
    for found in (listed, alone):
        torch.testing.assert_close(as_kv(found).k, expected.k)
        torch.testing.assert_close(as_kv(found).v, expected.v)


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (DynamicCache(), "has no layers; run the model first"),
        (EncoderDecoderCache(DynamicCache(), DynamicCache()), "self_attention_cache"),
        ([*pairs(1), *pairs(1, 3)], r"\[1\] holds 3 tokens .*4.*teacher.KVCapture"),
        ([(torch.zeros(2, 3), torch.zeros(2, 3))], r"\[0\] holds no keys .*\(2, 3\)"),
        ([*pairs(1), (torch.zeros(B, H, T, D),)], r"\[1\] holds no keys and values"),
    ],
)
def test_what_is_no_whole_cache_is_refused(cache, message):
    with pytest.raises(ValueError, match=message):
        apply_char_alignment(cache, SPLIT)
