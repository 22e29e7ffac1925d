"""The calls whose names are fixed, run as they are written where they come from."""

import pytest
import torch

from align import (
    MultiTeacherHeadDimAdapter,
    MultiTeacherRoPEScaler,
    align_sequence_lengths,
    apply_char_alignment,
    build_char_align_matrix,
    build_multi_teacher_layer_map,
    interpolate_teacher_layers,
    visualize_alignment,
    visualize_layer_mapping,
)
from align.kv import KV
from fuse import (
    EntropyRegularizer,
    LearnableRouter,
    fuse_kvs_fixed,
    fuse_kvs_learnable,
    fuse_kvs_similarity,
)
from teacher import (
    TeacherKVExtractor,
    compute_multi_teacher_prototypes,
    compute_routing_weights,
    load_kvs,
)

B, H, T, D = 2, 8, 5, 64
C = H * D


def kv(layers, heads=H, tokens=T, size=D):
    k, v = torch.randn(2, layers, B, heads, tokens, size)
    return KV(k, v, torch.ones(B, tokens, dtype=torch.bool))


def test_alignment_carries_a_teachers_keys_to_the_students_tokens():
    text = "unbelievable story"
    student_tokens = ["un", "believable", "story"]
    teacher_tokens = ["unbeliev", "able", "st", "ory"]
    A = build_char_align_matrix(student_tokens, teacher_tokens, text)
    assert A.shape == (3, 4)
    teacher_kv = torch.randn(B, H, 4, D)  # one layer's keys
    assert apply_char_alignment(teacher_kv, A).shape == (B, H, 3, D)
    past_key_values = tuple((torch.randn(B, H, 4, D),) * 2 for _ in range(6))
    aligned = apply_char_alignment(past_key_values, A)
    assert len(aligned) == 6 and aligned[5][1].shape == (B, H, 3, D)
    student_kv = torch.randn(B, H, 3, D)
    teacher, student, teacher_mask, student_mask = align_sequence_lengths(
        teacher_kv, student_kv, align_matrix=A
    )
    assert teacher.shape == student.shape
    assert teacher_mask.shape[-1] == student_mask.shape[-1] == 3
    assert visualize_alignment(A, student_tokens, teacher_tokens)


def test_layers_of_two_teachers_and_of_one_are_mixed():
    layer_map = build_multi_teacher_layer_map([24, 32], 12, strategy="ratio")
    for strategy in ("uniform", "skip"):
        assert len(build_multi_teacher_layer_map([24, 32], 12, strategy=strategy)) == 2
    teacher_kvs = [kv(24, 2, 3, 4), kv(32, 2, 3, 4)]
    mixed = interpolate_teacher_layers(teacher_kvs, layer_map, 12)
    assert [one.num_layers for one in mixed] == [12, 12]
    (one,) = build_multi_teacher_layer_map([32], 12)
    alone = interpolate_teacher_layers(teacher_kvs[1], one, 12)
    assert torch.equal(alone.k, mixed[1].k)
    (listed,) = interpolate_teacher_layers([teacher_kvs[1].k], one, 12)
    assert torch.equal(listed, alone.k)
    figure = visualize_layer_mapping(one, num_teacher_layers=32, num_student_layers=12)
    assert figure.axes[0].get_title() == "teacher 0, 32 layers"
    assert visualize_layer_mapping([one], num_teacher_layers=32, num_student_layers=12)
    with pytest.raises(ValueError, match=r"reads layer 31, but it has layers 0\.\.23"):
        visualize_layer_mapping(one, num_teacher_layers=24)


def test_heads_of_two_teachers_come_to_the_students():
    adapter = MultiTeacherHeadDimAdapter([(768, 12), (1024, 16)], 512, 8)
    teacher_ks = [torch.randn(B, 12, T, 64), torch.randn(B, 16, T, 64)]
    teacher_vs = [torch.randn(B, 12, T, 64), torch.randn(B, 16, T, 64)]
    adapted_ks, adapted_vs = adapter(teacher_ks, teacher_vs)
    for one in (*adapted_ks, *adapted_vs):
        assert one.shape == (B, 8, T, 64)
    torch.testing.assert_close(  # 16 heads to 8: pairs are averaged
        adapted_vs[1][:, 0], teacher_vs[1][:, :2].mean(1)
    )
    pairs = adapter(list(zip(teacher_ks, teacher_vs, strict=True)))
    assert torch.equal(pairs[1][0], adapted_ks[1])


def test_keys_are_rescaled_for_a_longer_context():
    scaler = MultiTeacherRoPEScaler(
        [(10000, 2048), (10000, 4096)], 2048, scaling_method="ntk"
    )
    ks = [torch.randn(B, H, T, D) for _ in range(2)]
    vs = [torch.randn(B, H, T, D) for _ in range(2)]
    scaled_ks, scaled_vs = scaler.scale_kv_pairs(ks, vs)
    assert all(map(torch.equal, (*scaled_ks, *scaled_vs), (*ks, *vs)))  # s = 1
    longer = MultiTeacherRoPEScaler([(10000, 2048)], 8192, scaling_method="ntk")
    assert not torch.equal(longer.scale_kv_pairs(ks[:1], vs[:1])[0][0], ks[0])


def test_a_teacher_is_read_and_kept(tiny_zoo, monkeypatch, tmp_path):
    monkeypatch.setenv("MTKD_CACHE", str(tiny_zoo["gpt2-prose"].parents[2]))
    extractor = TeacherKVExtractor("zoo:tiny/gpt2-prose", batch_size=4)
    texts = ["KV is content keys and values.", "深度学习"]
    kvs = extractor.extract_kvs(texts)
    extractor.save_kvs(kvs, tmp_path / "kvs")
    assert torch.equal(load_kvs(tmp_path / "kvs")[1].v, kvs[1].v)


@pytest.mark.parametrize("method", ["mean", "cls", "kmeans"])
def test_prototypes_weigh_teachers(method):
    kvs_list = [kv(3, tokens=9) for _ in range(2)]
    prototypes = compute_multi_teacher_prototypes(kvs_list, method=method)
    student_hidden = torch.randn(B, T, prototypes.shape[-1])
    for similarity in ("cosine", "dot", "l2"):
        weights = compute_routing_weights(
            student_hidden, prototypes, temperature=1.0, similarity=similarity
        )
        assert weights.shape == (B, T, 2)
        torch.testing.assert_close(weights.sum(-1), torch.ones(B, T))


@pytest.mark.parametrize("make", [kv, lambda layers: torch.randn(layers, B, T, C)])
@pytest.mark.parametrize("layers", [2, 3])
def test_teachers_become_one_and_say_by_what_weights(make, layers):
    kvs_list = [make(layers) for _ in range(3)]
    kind = type(kvs_list[0])
    assert isinstance(fuse_kvs_fixed(kvs_list, weights=[0.5, 0.3, 0.2]), kind)
    query, prototypes = torch.randn(B, T, C), torch.randn(3, C)
    fused, weights = fuse_kvs_similarity(kvs_list, query, prototypes, temperature=1.0)
    assert isinstance(fused, kind) and weights.shape == (B, T, 3)
    for router_type in ("mlp", "gate", "attention"):
        router = LearnableRouter(hidden_dim=C, num_teachers=3, router_type=router_type)
        fused, weights = fuse_kvs_learnable(kvs_list, query, router)
        assert isinstance(fused, kind)
        torch.testing.assert_close(weights, torch.full((B, T, 3), 1 / 3))
    for target in ("specialized", "diverse"):
        regularizer = EntropyRegularizer(target=target, strength=0.01)
        assert regularizer.compute_loss(weights).dim() == 0
