import pytest
import torch

from teacher.capture.kv_capture import KVCapture
from teacher.capture.left_padding import counted, is_left_padded

pytestmark = pytest.mark.edges

BOTH_SIDES = [
    "gpt2", "opt", "llama", "llama3", "yarn", "linear", "proportional", "mistral",
    "mistral_wide", "qwen2", "qwen3", "gpt_neox", "phi", "gemma2", "gemma3", "cohere",
    "cohere2", "smollm3", "olmo2", "glm", "glm4", "gpt_oss", "deepseek_v3",
    "deepseek_v3_halves", "qwen3_next", "gemma3n", "bert", "roberta", "albert",
    "distilbert", "modernbert", "t5",
]  # fmt: skip
# Dynamic and LongRoPE rotate a short row by the longest row beside it.
RIGHT_ONLY = ["bart"]
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def _read(capture, ids, mask):
    logits = capture.has_logits
    with torch.no_grad():
        return capture(ids, mask, logits=logits, hidden=not logits)


def _same(found, alone, tokens):
    torch.testing.assert_close(found.kv.k[:, 1:, :, tokens], alone.kv.k, **CLOSE)
    torch.testing.assert_close(found.kv.v[:, 1:, :, tokens], alone.kv.v, **CLOSE)
    for name in ("logits", "hidden"):
        if getattr(alone, name) is not None:
            row = getattr(found, name)[1:, tokens]
            torch.testing.assert_close(row, getattr(alone, name), **CLOSE)


@pytest.mark.parametrize("name", [*BOTH_SIDES, *RIGHT_ONLY])
def test_rows_padded_on_the_right_equal_the_text_alone(make_model, batch, name):
    capture = KVCapture(make_model(name))
    ids, mask = batch
    found = _read(capture, ids, mask)
    _same(found, _read(capture, ids[1:, :7], mask[1:, :7]), slice(0, 7))
    assert found.kv.mask.equal(mask)


@pytest.mark.parametrize("name", BOTH_SIDES)
def test_rows_padded_on_the_left_equal_the_text_alone(make_model, batch, name):
    capture = KVCapture(make_model(name))
    ids, mask = batch
    left, left_mask = ids.clone(), mask.flip(1)
    left[1] = torch.cat([torch.full((5,), 9), ids[1, :7]])  # what pads is no matter
    found = _read(capture, left, left_mask)
    _same(found, _read(capture, ids[1:, :7], mask[1:, :7]), slice(5, 12))
    assert found.kv.mask.equal(left_mask)
    torch.testing.assert_close(found.kv.k[:, :1], _read(capture, ids, mask).kv.k[:, :1])


@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_models_that_count_padding_as_text_are_refused_on_the_left(
    make_model, batch, which
):
    capture = KVCapture(make_model("bart"), which=which)
    ids, mask = batch
    with pytest.raises(ValueError, match=r"BartForCond.* padding on the left as text"):
        capture(ids, mask.flip(1))
    capture(ids, mask)


@pytest.mark.parametrize("which", ["decoder", "cross"])
def test_relative_positions_stand_left_padding_in_both_stacks(make_model, batch, which):
    # In float64: how many threads share a product must not decide.
    capture = KVCapture(make_model("t5").double(), which=which)
    ids, mask = batch
    left = torch.cat([ids[1:, 7:], ids[1:, :7]], dim=1)
    with torch.no_grad():
        found = capture(left, mask[1:].flip(1)).kv
        alone = capture(ids[1:, :7], mask[1:, :7]).kv
    torch.testing.assert_close(found.k[..., 5:, :], alone.k, **CLOSE)
    torch.testing.assert_close(found.v[..., 5:, :], alone.v, **CLOSE)


def test_learning_how_a_model_counts_leaves_dropout_and_random_state_alone(
    make_model, batch
):
    model = make_model("gpt2").train()
    capture = KVCapture(model)
    state = torch.get_rng_state()
    assert capture._told_positions
    assert torch.get_rng_state().equal(state)
    assert all(module.training for module in model.modules())


def test_positions_are_counted_from_the_first_real_token():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert counted(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2], [0, 0, 0, 0]]
    assert is_left_padded(mask)
    assert not is_left_padded(mask[1:])  # an empty text has no side
