import sys

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from align.rope_scale import rotary_table, rotate
from teacher.capture.kv_capture import KVCapture
from teacher.capture.rotary import Rotation, _of_pairs, inverted

pytestmark = pytest.mark.edges

LLAMA = "transformers.models.llama.modeling_llama"
VARIANTS = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 8},
    "longrope": {
        "factor": 2.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 3.0, 4.0],
        "original_max_position_embeddings": 10,
    },
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "proportional": {"partial_rotary_factor": 0.5},
}


def test_no_variant_of_the_library_is_left_out():
    assert set(ROPE_INIT_FUNCTIONS) | {"default"} == set(VARIANTS)


@pytest.mark.parametrize("tokens", [6, 40])
@pytest.mark.parametrize("kind", sorted(VARIANTS))
def test_every_variant_of_the_library_round_trips(make_model, kind, tokens):
    model = make_model(
        "llama",
        rope_parameters={"rope_type": kind, "rope_theta": 1e4, **VARIANTS[kind]},
    )
    rotary, content = model.model.rotary_emb, torch.randn(2, 3, tokens, 8)
    cos, sin = rotary(content, torch.arange(tokens)[None])
    rotation = Rotation(_of_pairs(sys.modules[LLAMA].apply_rotary_pos_emb), 1)
    turned = rotation.rotate(content, (cos, sin))
    back = rotation.undo(turned, inverted((cos, sin)))
    torch.testing.assert_close(back, content, atol=1e-5, rtol=1e-5)
    # and by this project's own table from the variant's frequencies
    table = rotary_table(rotary.inv_freq, torch.arange(tokens))
    scaled = [rotary.attention_scaling * part for part in table]
    torch.testing.assert_close(rotate(content, *scaled), turned, atol=1e-5, rtol=1e-5)
    assert KVCapture(model).has_rotary


def test_trailing_entries_are_rotated_and_turned_back():
    rotation = Rotation(
        _of_pairs(sys.modules[LLAMA].apply_rotary_pos_emb), 1, trailing=True
    )
    content = torch.randn(2, 3, 5, 12, dtype=torch.float64)
    table = rotary_table(torch.tensor([1.0, 0.3, 0.1, 0.03]), torch.arange(5)[None])
    turned = rotation.rotate(content, table)
    assert turned[..., :4].equal(content[..., :4])
    torch.testing.assert_close(turned[..., 4:], rotate(content[..., 4:], *table))
    back = rotation.undo(turned, inverted(table))
    torch.testing.assert_close(back, content)
    out = torch.empty_like(content)
    assert rotation.undo(turned, inverted(table), out=out) is out
    assert out.equal(back)
