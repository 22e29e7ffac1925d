"""Which layers join queries, keys and values, against how each class is written."""

import pytest
import torch

from align.support.matrices import layouts
from teacher.capture.kv_capture import KVCapture

ROWS = {
    # Three of 32 end to end.
    "gpt2": {"attn.c_attn": [range(32), range(32, 64), range(64, 96)]},
    # 4 heads of query, key, value, 8 each.
    "gpt_neox": {
        "attention.query_key_value": [
            [24 * head + 8 * kind + i for head in range(4) for i in range(8)]
            for kind in range(3)
        ]
    },
    # 4 heads of queries, 2 of keys and values, 8 each; then gate and input, 48 each.
    "phi3": {
        "self_attn.qkv_proj": [range(32), range(32, 48), range(48, 64)],
        "mlp.gate_up_proj": [range(48), range(48, 96)],
    },
    # By heads: 8 of the query, 8 of a gate on what comes out.
    "qwen3_next": {
        "self_attn.q_proj": [
            [16 * head + 8 * kind + i for head in range(4) for i in range(8)]
            for kind in range(2)
        ]
    },
    "llama": {},
    "opt": {},
}


@pytest.mark.parametrize("name", ROWS)
def test_the_maps_of_a_joined_layer_are_those_that_its_class_takes_apart(
    make_model, name
):
    model = make_model(name)
    weights = {key: p.detach().clone() for key, p in model.named_parameters()}
    state = torch.random.get_rng_state()
    maps = layouts(model, KVCapture(model).joined_maps())
    assert torch.equal(torch.random.get_rng_state(), state)
    expected = {  # of each layer that has such a child
        f"{prefix}.{suffix}.weight": [list(rows) for rows in by_map]
        for suffix, by_map in ROWS[name].items()
        for prefix in {key.partition(f".{suffix}.")[0] for key in weights}
        if f"{prefix}.{suffix}.weight" in weights
    }
    joined = {
        key: [rows.tolist() for rows in maps[id(parameter)].maps]
        for key, parameter in model.named_parameters()
        if id(parameter) in maps and maps[id(parameter)].maps
    }
    assert joined == expected
    on_side = {maps[id(p)].on_side for p in model.parameters() if id(p) in maps}
    assert on_side == ({True, False} if name == "gpt2" else {False})  # its head lies
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(weights[key], p) for key, p in model.named_parameters())


def test_frozen_layers_are_left_out(make_model):
    model = make_model("gpt2").requires_grad_(False)
    assert KVCapture(model).joined_maps() == {}
