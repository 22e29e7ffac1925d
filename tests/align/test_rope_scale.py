import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.rope_scale import (
    METHODS,
    MultiTeacherRoPEScaler,
    inverse_frequencies,
    rotary_table,
    rotate,
    scaled_base,
)


def rotated(content, base, interleaved=False, width=None):
    inv_freq = inverse_frequencies(base, width or content.shape[-1])
    positions = torch.arange(content.shape[-2])
    return rotate(content, *rotary_table(inv_freq, positions, interleaved), interleaved)


def test_rotation_equals_the_library_s_half_split_one():
    from transformers import LlamaConfig
    from transformers.models.llama import modeling_llama as llama

    config = LlamaConfig(hidden_size=32, num_attention_heads=2)
    x = torch.randn(1, 2, 7, 16)
    position_ids = torch.arange(7)[None]
    cos, sin = llama.LlamaRotaryEmbedding(config)(x, position_ids)
    expected, _ = llama.apply_rotary_pos_emb(x, x, cos, sin)
    torch.testing.assert_close(rotated(x, 10000.0), expected, atol=1e-5, rtol=1e-5)


def test_rotation_equals_the_library_s_interleaved_one():
    from transformers.models.cohere import modeling_cohere as cohere

    config = cohere.CohereConfig(hidden_size=32, num_attention_heads=2)
    x = torch.randn(1, 2, 7, 16)
    cos, sin = cohere.CohereRotaryEmbedding(config)(x, torch.arange(7)[None])
    expected, _ = cohere.apply_rotary_pos_emb(x, x, cos, sin)
    base = config.rope_parameters["rope_theta"]
    torch.testing.assert_close(rotated(x, base, True), expected, atol=1e-5, rtol=1e-5)


@given(
    st.integers(1, 9),
    st.sampled_from([4, 8, 16]),
    st.sampled_from([100.0, 10000.0, 1e6]),
    st.booleans(),
    st.floats(0.5, 2),
)
@settings(max_examples=40, deadline=None)
def test_the_opposite_angle_undoes_a_rotation_also_partial_and_scaled(
    tokens, width, base, interleaved, factor
):
    x = torch.randn(2, 3, tokens, 16, dtype=torch.float64)
    table = rotary_table(
        inverse_frequencies(base, width), torch.arange(tokens) + 5, interleaved
    )
    cos, sin = (factor * part for part in table)
    turned = rotate(x, cos, sin, interleaved)
    assert torch.equal(turned[..., width:], x[..., width:])
    size = factor**2  # cos^2 + sin^2: an attention factor (YaRN) stretches too
    back = rotate(turned, cos / size, -sin / size, interleaved)
    torch.testing.assert_close(back, x)


def test_scores_of_rotated_keys_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64).expand(2, 1, 6, 8)
    scores = rotated(q, 100.0)[0] @ rotated(k, 100.0)[0].T
    for distance in range(-5, 6):
        line = scores.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line))


def test_bases_by_hand():
    assert scaled_base(10000, 64, 2, "ntk") == pytest.approx(15874.01, abs=0.01)
    assert scaled_base(10000, 64, 2, "ntk", exponent=1) == 20000
    assert scaled_base(10000, 64, 2, "ntk-aware") == pytest.approx(20452.2, abs=0.1)
    assert scaled_base(10000, 64, 3, "linear") == 10000
    for method in METHODS:
        assert scaled_base(12345.6, 64, 1, method) == 12345.6


@pytest.mark.parametrize("method", METHODS)
def test_a_scale_of_one_changes_not_one_bit(method):
    keys = [torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8).bfloat16()]
    values = [torch.randn(2, 3, 9, 8)] * 2
    scaler = MultiTeacherRoPEScaler(
        [(10000, 2048), (500000, 4096)], 2048, scaling_method=method
    )
    new_keys, new_values = scaler.scale_kv_pairs(keys, values)
    for old, new in zip(keys + values, new_keys + new_values, strict=True):
        assert torch.equal(old, new) and old.dtype == new.dtype


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("width", [8, None])
@pytest.mark.parametrize("method", ["ntk", "ntk-aware"])
def test_scaled_keys_are_content_keys_rotated_by_the_new_base(
    method, width, interleaved
):
    content = torch.randn(2, 3, 40, 16)
    scaler = MultiTeacherRoPEScaler(
        [(10000, 512)], 2048, method, interleaved=interleaved, rotary_dim=width
    )
    assert scaler.scale_of(0) == 4
    old = rotated(content, 10000, interleaved, width)
    base = scaled_base(10000, width or 16, 4, method)
    expected = rotated(content, base, interleaved, width)
    (keys,), _ = scaler.scale_kv_pairs([old], [old])
    torch.testing.assert_close(keys, expected, atol=2e-5, rtol=1e-5)
    # multiplying rotated keys by anything would not do: the angle changes by pair
    assert not torch.allclose(keys, old, atol=1e-2)


@pytest.mark.parametrize(("kind", "tokens"), [("linear", 12), ("dynamic", 12)])
def test_linear_and_dynamic_frequencies_equal_the_library_s(kind, tokens):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    factor = 3.0 if kind == "linear" else 1.0
    config = LlamaConfig(
        hidden_size=32,
        num_attention_heads=2,
        max_position_embeddings=4,
        rope_parameters={"rope_type": kind, "factor": factor, "rope_theta": 10000.0},
    )
    inv_freq, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), tokens)
    content = torch.randn(1, tokens, 16)
    expected = rotate(content, *rotary_table(inv_freq, torch.arange(tokens)))
    scaler = MultiTeacherRoPEScaler([(10000, 4)], 12, kind)
    (keys,), _ = scaler.scale_kv_pairs([rotated(content, 10000)], [content])
    torch.testing.assert_close(keys, expected, atol=1e-5, rtol=1e-5)


def test_dynamic_leaves_short_texts_alone():
    scaler = MultiTeacherRoPEScaler([(10000, 16)], 4096, "dynamic")
    short, long = torch.randn(1, 16, 8), torch.randn(1, 17, 8)
    assert torch.equal(scaler.scale_kv_pairs([short], [short])[0][0], short)
    assert not torch.equal(scaler.scale_kv_pairs([long], [long])[0][0], long)


def test_positions_may_be_given():
    content = torch.randn(1, 3, 8)
    scaler = MultiTeacherRoPEScaler([(10000, 64)], 128, "ntk")
    positions = torch.tensor([10, 11, 30])
    old = rotate(
        content, *rotary_table(inverse_frequencies(10000, 8), positions), False
    )
    new_base = inverse_frequencies(scaled_base(10000, 8, 2), 8)
    expected = rotate(content, *rotary_table(new_base, positions))
    (keys,), _ = scaler.scale_kv_pairs([old], [old], position_ids=positions)
    torch.testing.assert_close(keys, expected, atol=1e-5, rtol=1e-5)


def test_a_function_may_choose_the_base():
    content = torch.randn(1, 5, 8)
    scaler = MultiTeacherRoPEScaler([(100, 8)], 16, lambda b, d, s: b * s * d)
    (keys,), _ = scaler.scale_kv_pairs([rotated(content, 100)], [content])
    torch.testing.assert_close(keys, rotated(content, 1600), atol=1e-5, rtol=1e-5)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown RoPE scaling 'yarn'; valid are none"):
        MultiTeacherRoPEScaler([(10000, 8)], 8, "yarn")
    with pytest.raises(ValueError, match=r"teacher_configs\[1\] is \(0, 8\)"):
        MultiTeacherRoPEScaler([(10000, 8), (0, 8)], 8)
    with pytest.raises(ValueError, match="interleaved has 1 entries for 2 teachers"):
        MultiTeacherRoPEScaler([(1e4, 8)] * 2, 8, interleaved=[True])
    with pytest.raises(ValueError, match="1 keys and 2 values for 2 teachers"):
        x = torch.zeros(1, 4)
        MultiTeacherRoPEScaler([(1e4, 8)] * 2, 8).scale_kv_pairs([x], [x, x])
    with pytest.raises(ValueError, match="must be even and >= 2, got 7"):
        inverse_frequencies(10000, 7)
    with pytest.raises(ValueError, match="scale must be >= 1"):
        scaled_base(10000, 8, 0.5)
    with pytest.raises(ValueError, match="cos turns 8 channels, but x has 4"):
        rotate(torch.zeros(1, 4), torch.ones(1, 8), torch.ones(1, 8))
