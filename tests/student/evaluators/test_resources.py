"""Size, cost and speed: counted by hand for a Llama of one layer."""

from dataclasses import replace

import pytest
import torch

from align.errors import InputError
from plugins.contracts.models.evaluator import small_context
from student.evaluators import WHOLE
from student.evaluators.cost import Cost, weight_bytes
from student.evaluators.decoding import Decoder, bytes_of, drawn_prompt
from student.evaluators.size import Size
from student.evaluators.speed import Speed, spread

V, C, I = 257, 16, 16  # noqa: E741
KV = 8  # one head of 8 for two queries
LAYER = 2 * C * C + 2 * C * KV + 3 * C * I
"""Weights in a layer's matrices: queries, outputs, keys, values, three of the MLP."""


@pytest.fixture(scope="module")
def ctx():
    return small_context(("aunt",))


def test_size_counts_parameters_and_bytes_and_what_is_saved(ctx, tmp_path):
    ctx.subject.model.save_pretrained(tmp_path)
    values = Size()(replace(ctx, subject=replace(ctx.subject, folder=tmp_path))).values
    norms = 3 * C
    total = 2 * V * C + LAYER + norms
    assert values["parameters"] == {WHOLE: total}
    assert values["parameters_saved"] == {"aunt": 0.0}  # of the same size
    buffers = sum(b.nbytes for b in ctx.subject.model.buffers())
    assert values["memory"][WHOLE] * 2**20 == pytest.approx(4 * total + buffers)
    weights = (tmp_path / "model.safetensors").stat().st_size
    assert values["disk"][WHOLE] * 2**20 == pytest.approx(weights)
    assert "disk_saved" not in values  # where the aunt's files lie is not known


def test_half_the_weights_save_half():
    ctx = small_context(("aunt",))
    ctx.teachers["aunt"].model.double()
    assert Size()(ctx).values["memory_saved"]["aunt"] == pytest.approx(50, abs=2)


def test_operations_are_two_for_each_weight_and_token_and_attention_beside(ctx):
    tokens = 10
    values = Cost(prompt_tokens=tokens)(ctx).values
    # the head is asked at the last position alone, as generate does
    attention = 2 * 2 * tokens * tokens * C  # queries by keys, weights by values
    prefill = 2 * tokens * LAYER + 2 * V * C + attention
    assert values["prefill_flops"][WHOLE] * 1e9 == pytest.approx(prefill)
    decode = 2 * LAYER + 2 * V * C + 2 * 2 * (tokens + 1) * C
    assert values["decode_flops"][WHOLE] * 1e6 == pytest.approx(decode)
    cache = 2 * tokens * KV * 4
    moved = weight_bytes(ctx.subject.model) + cache
    assert values["decode_bytes"][WHOLE] * 1e6 == pytest.approx(moved)
    assert "roofline_decode" not in values


def test_the_roofline_is_the_longer_of_computing_and_moving(ctx):
    slow_memory = Cost(prompt_tokens=10, tflops=1000, gb_per_s=1e-3)(ctx).values
    moved = slow_memory["decode_bytes"][WHOLE] * 1e6
    assert slow_memory["roofline_decode"][WHOLE] == pytest.approx(1e6 / moved)
    slow_units = Cost(prompt_tokens=10, tflops=1e-6, gb_per_s=1000)(ctx).values
    read = slow_units["prefill_flops"][WHOLE] * 1e9
    assert slow_units["roofline_prefill"][WHOLE] == pytest.approx(1e3 * read / 1e6)
    with pytest.raises(InputError, match="takes both tflops and gb_per_s"):
        Cost(tflops=10)


def test_what_is_decoded_is_what_generate_writes(ctx):
    ids = drawn_prompt(ctx, 3, 12, 5)
    decoder, written = Decoder(ctx.subject), [ids]
    for _ in range(5):
        written.append(decoder.read(written[-1]))
    expected = ctx.subject.model.generate(
        ids, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0
    )
    eos = 0  # generate forbids it before its time
    if not bool((torch.cat(written[1:], 1) == eos).any()):
        assert torch.equal(torch.cat(written, 1), expected)
    assert bytes_of(decoder.cache) == 2 * 3 * (12 + 4) * KV * 4


def test_speed_is_told_by_batch_size_with_its_spread(ctx):
    values = Speed(batches=[1, 3], prompt_tokens=8, new_tokens=2, repeats=2)(ctx).values
    assert list(values["decode"]) == ["batch 1", "batch 3"]
    for part, size in (("batch 1", 1), ("batch 3", 3)):
        seconds = values["decode_time"][part] / 1e3
        assert values["decode"][part] == pytest.approx(size / seconds)
        assert values["prefill"][part] == pytest.approx(
            8 * size / values["prefill_time"][part] * 1e3
        )
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(100 * 2 / 3)
    with pytest.raises(InputError, match="repeats is 1; give 2 or more"):
        Speed(repeats=1)
    with pytest.raises(InputError, match="has 256 positions, fewer than 300"):
        Speed(prompt_tokens=300)(ctx)
