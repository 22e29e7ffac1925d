"""What aligning rests on: time, depth, width, position, pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from checks.table import check, close
from checks.tiny_zoo import MODELS, TEXT, seen, zoo


@check("align.text", "text is read unmodified, CRLF and all")
def _text() -> str:
    from align import read_texts

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_bytes(TEXT.encode())
        (sample,) = read_texts(path)
    assert sample.text in TEXT and sample.domain == "a", sample
    return f"{len(sample.text)} characters, domain {sample.domain!r}"


@check("align.tokens", "spans index the text itself, in every tokenizer")
def _tokens() -> str:
    tokens = []
    for name in MODELS:
        from align import encode_batch

        batch = encode_batch(zoo(name)[0], [TEXT])
        covered = {i for s, e in batch.spans[0].tolist() for i in range(s, e)}
        missed = {c for i, c in enumerate(TEXT) if i not in covered and c.isalpha()}
        assert not missed, f"{name} covers no {missed}"
        tokens.append(int(batch.mask.sum()))
    return f"{len(tokens)} tokenizers, {min(tokens)} to {max(tokens)} tokens"


@check("align.tokenizer_align", "overlap is counted in characters, sparsely")
def _overlap() -> str:
    from align import build_char_align_matrix, char_iou

    student = torch.tensor([[0, 1], [1, 2], [2, 4], [4, 4]])
    teacher = torch.tensor([[0, 2], [2, 4]])
    dense = char_iou(student, teacher)
    close(dense, [[0.5, 0], [0.5, 0], [0, 1], [0, 0]])
    matrix = build_char_align_matrix(["深", "度", "KV"], ["深度", "KV"], "深度KV")
    close(matrix, [[1, 0], [1, 0], [0, 1]])
    return f"{int((dense > 0).sum())} pairs for {dense.numel()} cells"


@check("align.tokenizer_align", "no future reaches a causal student's token")
def _leak() -> str:
    from align import CausalCharIoUAligner, CharIoUAligner, check_causal

    student, _ = seen("student", [TEXT])
    teacher, _ = seen("gpt2-prose", [TEXT])
    check_causal(CausalCharIoUAligner()(student, teacher), student, teacher)
    plain = CharIoUAligner()(student, teacher)
    try:
        check_causal(plain, student, teacher)
    except ValueError as error:
        return str(error).split(";")[0]
    raise AssertionError("plain char IoU lets a token read what comes after it")


@check("align.time_align", "a token without teacher text is masked and counted")
def _time() -> str:
    from align import align_sequence_lengths, apply_char_alignment

    A = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]])
    x = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    close(apply_char_alignment(x, A), [[2, 0], [1, 2], [0, 0]])
    t, s, t_mask, s_mask = align_sequence_lengths(x, torch.ones(3, 2), align_matrix=A)
    assert t.shape == s.shape == (3, 2)
    assert t_mask.tolist() == [True, True, False] and all(s_mask.tolist())
    return "2 of 3 tokens covered"


@check("align.layer_map", "each student layer has teachers, ends meet ends")
def _layers() -> str:
    from align import build_multi_teacher_layer_map, interpolate_teacher_layers

    for strategy in ("ratio", "uniform", "skip"):
        for entry in build_multi_teacher_layer_map([24, 32, 3], 12, strategy=strategy):
            for feeds in entry.matrix():
                close(feeds.sum(), 1.0)
            assert entry.matrix()[-1].argmax() == entry.matrix().shape[1] - 1
    (ratio,) = build_multi_teacher_layer_map([3], 5, strategy="ratio")
    layers = torch.tensor([0.0, 10.0, 20.0])[:, None]
    (mixed,) = interpolate_teacher_layers([layers], [ratio], 5)
    close(mixed[:, 0], [0, 5, 10, 15, 20])
    return "3 layers feed 5: 0 5 10 15 20"


@check("align.calibration", "adapters are solved, not trained by their distance")
def _adapter() -> str:
    from align import CalibrationStats, MultiTeacherHeadDimAdapter

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 400, 12, generator=generator)
    y = x @ torch.randn(2, 12, 8, generator=generator) + 3
    stats = CalibrationStats(2, 12, 8)
    stats.update(x, y)
    adapter = MultiTeacherHeadDimAdapter([(12, 3)], 8, 2, num_layers=2)
    r2 = {
        method: min(adapter.calibrate(0, stats, stats, method)["k_r2"])
        for method in ("pca", "procrustes", "ridge")
    }
    assert r2["ridge"] > 0.99 and r2["procrustes"] > r2["pca"], r2
    k, _ = adapter.adapt(0, x[:, None], x[:, None])
    assert k.shape == (2, 1, 400, 8)
    return ", ".join(f"{name} R² {value:.2f}" for name, value in r2.items())


@check("align.rope_scale", "scale 1 is the identity; undoing undoes")
def _rope() -> str:
    from align import MultiTeacherRoPEScaler, rotary_table, rotate, scaled_base
    from align import inverse_frequencies  # isort: skip

    k = torch.randn(2, 7, 16)
    scaler = MultiTeacherRoPEScaler([(10000, 64)], 64, scaling_method="ntk")
    (same,), _ = scaler.scale_kv_pairs([k], [k])
    assert torch.equal(same, k)
    cos, sin = rotary_table(inverse_frequencies(10000, 16), torch.arange(7))
    close(rotate(rotate(k, cos, sin), cos, -sin), k)
    ntk = scaled_base(10000, 16, 2.0, "ntk")
    aware = scaled_base(10000, 16, 2.0, "ntk-aware")
    close([ntk / 10000, aware / 10000], [2 ** (2 / 3), 2 ** (16 / 14)])
    return f"at scale 2: ntk {ntk:.0f}, ntk-aware {aware:.0f}"


@check("align.visualize", "alignment and layer maps become pictures")
def _pictures() -> str:
    from align import build_multi_teacher_layer_map, visualize_alignment
    from align import visualize_layer_mapping  # isort: skip

    with tempfile.TemporaryDirectory() as folder:
        a, b = Path(folder) / "a.png", Path(folder) / "b.png"
        A = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
        visualize_alignment(A, ["un", "believable"], ["unbe", "lievable"], path=a)
        maps = build_multi_teacher_layer_map([6, 4], 3)
        visualize_layer_mapping(maps, path=b)
        for path in (a, b):
            assert path.read_bytes().startswith(b"\x89PNG"), path
        return f"{a.stat().st_size + b.stat().st_size >> 10} KiB of PNG"
