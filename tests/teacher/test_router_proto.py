import pytest
import torch

from align.kv import KV
from teacher.router_proto import (
    compute_multi_teacher_prototypes,
    compute_routing_weights,
)


def _kv(seed, heads=2, size=3):
    generator = torch.Generator().manual_seed(seed)
    k = torch.randn(2, 2, heads, 4, size, generator=generator)
    v = torch.randn(2, 2, heads, 4, size, generator=generator)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    return KV(k, v, mask)


def test_mean_prototype_is_the_mean_of_real_tokens():
    kv = _kv(0)
    got = compute_multi_teacher_prototypes([kv, [_kv(1), _kv(2)]])
    real = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    rows = []
    for b, t in real:
        key = kv.k[:, b, :, t].mean(0).flatten()  # over layers, heads side by side
        rows.append(torch.cat([key, kv.v[:, b, :, t].mean(0).flatten()]))
    assert got.shape == (2, 12)
    torch.testing.assert_close(got[0], torch.stack(rows).mean(0))


def test_cls_prototype_is_the_mean_of_first_real_tokens():
    kv = _kv(3)
    shifted = KV(kv.k, kv.v, torch.tensor([[False, True, True, True]] * 2))
    got = compute_multi_teacher_prototypes([kv, shifted], method="cls")
    for row, token in ((0, 0), (1, 1)):
        key = kv.k[:, :, :, token].mean(dim=(0, 1)).flatten()
        torch.testing.assert_close(got[row, :6], key)


def test_kmeans_prototypes_are_the_centres_of_the_clumps():
    clumps = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    noise = torch.tensor([[0.1, 0.0], [-0.1, 0.0], [0.0, 0.1], [0.0, -0.1]])
    x = (clumps[:, None] + noise).flatten(0, 1)
    got = compute_multi_teacher_prototypes([x, x + 5], "kmeans", num_clusters=3)
    assert got.shape == (2, 3, 2)
    ordered = sorted(got[0].tolist())
    torch.testing.assert_close(
        torch.tensor(ordered), torch.tensor(sorted(clumps.tolist())), atol=1e-5, rtol=0
    )
    again = compute_multi_teacher_prototypes([x, x + 5], "kmeans", num_clusters=3)
    assert again.equal(got)


def test_prototypes_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"widths \[12, 8\].*adapt"):
        compute_multi_teacher_prototypes([_kv(0), _kv(0, size=2)])
    with pytest.raises(ValueError, match="one of 'mean', 'cls', 'kmeans'"):
        compute_multi_teacher_prototypes([_kv(0)], method="median")
    with pytest.raises(ValueError, match=r"kvs_list\[0\] has 2 tokens"):
        compute_multi_teacher_prototypes([torch.zeros(2, 3)], "kmeans")
    nothing = KV(_kv(0).k, _kv(0).v, torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"kvs_list\[1\] holds no real token"):
        compute_multi_teacher_prototypes([_kv(0), nothing])


def test_weights_by_hand():
    prototypes = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    query = torch.tensor([[1.0, 0.0]])
    e = torch.e
    cosine = compute_routing_weights(query, prototypes)
    torch.testing.assert_close(cosine, torch.tensor([[e / (e + 1), 1 / (e + 1)]]))
    sharp = compute_routing_weights(query, prototypes, temperature=0.5)
    torch.testing.assert_close(sharp[0, 0], torch.tensor(e**2 / (e**2 + 1)))
    dot = compute_routing_weights(query, prototypes, similarity="dot")
    expected = torch.tensor([[2 / 2**0.5, 0.0]]).softmax(-1)
    torch.testing.assert_close(dot, expected)
    distance = compute_routing_weights(query, prototypes, similarity="l2")
    torch.testing.assert_close(distance, torch.tensor([[-0.5, -1.0]]).softmax(-1))


@pytest.mark.parametrize("similarity", ["cosine", "dot", "l2"])
def test_the_nearest_cluster_of_a_teacher_counts(similarity):
    prototypes = torch.tensor([[[9.0, 0.0], [-9.0, 0.0]], [[0.0, 9.0], [0.0, 8.0]]])
    query = torch.tensor([[[-9.0, 1.0], [0.0, 8.0]]], requires_grad=True)
    weights = compute_routing_weights(query, prototypes, similarity=similarity)
    assert weights.shape == (1, 2, 2)
    assert weights.argmax(-1).tolist() == [[0, 1]]
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2))
    weights[..., 0].sum().backward()
    assert query.grad.abs().sum() > 0


def test_weights_name_what_is_wrong():
    query, prototypes = torch.zeros(1, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="one of 'cosine', 'dot', 'l2'"):
        compute_routing_weights(query, prototypes, similarity="l1")
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        compute_routing_weights(query, prototypes, temperature=0)
    with pytest.raises(ValueError, match="is 2 wide, prototypes 3"):
        compute_routing_weights(query[:, :2], prototypes)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "l2"])
def test_weights_are_float32_where_products_are_bfloat16(similarity):
    chance = torch.Generator().manual_seed(0)
    query, centres = (torch.randn(n, 64, generator=chance) for n in (20, 3))
    expected = compute_routing_weights(query, centres, 0.1, similarity)
    with torch.autocast("cpu", torch.bfloat16):
        weights = compute_routing_weights(query, centres, 0.1, similarity)
    assert weights.dtype == torch.float32
    assert torch.equal(weights, expected)
