import pytest
import torch

from align.kv import KV


def make_kv(k_size=3, v_size=2):
    k = torch.arange(2 * 1 * 2 * 4 * k_size, dtype=torch.float32)
    v = torch.arange(2 * 1 * 2 * 4 * v_size, dtype=torch.float32)
    mask = torch.ones(1, 4, dtype=torch.bool)
    return KV(k.view(2, 1, 2, 4, k_size), v.view(2, 1, 2, 4, v_size), mask)


def test_flat_puts_all_heads_of_one_token_side_by_side():
    kv = make_kv()
    k, v = kv.flat()
    assert k.shape == (2, 1, 4, 6) and v.shape == (2, 1, 4, 4)
    # layer 0, token 1: head 0 holds 3, 4, 5 and head 1 holds 15, 16, 17
    assert k[0, 0, 1].tolist() == [3, 4, 5, 15, 16, 17]


def test_from_flat_undoes_flat_with_different_key_and_value_sizes():
    kv = make_kv()
    again = KV.from_flat(*kv.flat(), kv.mask, heads=2)
    assert torch.equal(again.k, kv.k) and torch.equal(again.v, kv.v)


def test_from_flat_refuses_heads_that_do_not_divide():
    kv = make_kv()
    with pytest.raises(ValueError, match="width 6, which 4 heads do not divide"):
        KV.from_flat(*kv.flat(), kv.mask, heads=4)


def test_select_layers_keeps_the_order_asked_for():
    kv = make_kv()
    picked = kv.select_layers([1, 0, 1])
    assert picked.num_layers == 3
    assert torch.equal(picked.k[0], kv.k[1]) and torch.equal(picked.v[1], kv.v[0])


def test_a_mask_of_the_wrong_kind_is_refused():
    kv = make_kv()
    with pytest.raises(ValueError, match=r"give bool \(1, 4\)"):
        KV(kv.k, kv.v, torch.ones(1, 4))
