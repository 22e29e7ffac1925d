"""What reading a teacher rests on: content keys, gradients, storage, prototypes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from checks.table import check, close
from checks.tiny_zoo import MODELS, TEXT, seen, zoo


@check("teacher.zoo", "five real teachers of five families, and a student")
def _zoo() -> str:
    from teacher.zoo import list_zoo

    zoo("student")
    entries = list_zoo(scale="tiny")
    assert all(entry.built for entry in entries)
    assert {entry.name for entry in entries} == set(MODELS)
    return ", ".join(sorted({entry.family for entry in entries}))


@check("teacher.capture", "content keys, rotated again, are the library's own")
def _content() -> str:
    from transformers import DynamicCache

    from align import rotary_table, rotate

    worst = 0.0
    for name in ("gpt2-prose", "qwen-code", "neox-mixed"):
        batch, got = seen(name, [TEXT])
        model = zoo(name)[1].model
        cached = DynamicCache(config=model.config)
        with torch.no_grad():
            model(batch.ids, past_key_values=cached, use_cache=True)
        k = got.kv.k
        rotary = getattr(model.base_model, "rotary_emb", None)
        if rotary is not None:
            table = rotary_table(rotary.inv_freq, torch.arange(k.shape[-2]))
            k = rotate(k, *table)
        for layer, kept in enumerate(cached.layers):
            worst = max(worst, float((k[layer] - kept.keys).abs().max()))
            close(got.kv.v[layer], kept.values)
    assert worst < 1e-4, worst
    return f"none, full and partial rotation; off by {worst:.0e} at most"


@check("teacher.capture", "encoders and grouped queries are read as they are")
def _shapes() -> str:
    found = []
    for name in MODELS:
        _, got = seen(name, [TEXT, "short"])
        assert got.kv.k.isfinite().all() and got.kv.k.shape[1] == 2
        found.append(f"{got.kv.num_layers}x{got.kv.num_heads}")
    return "layers x heads: " + " ".join(found)


@check("teacher.capture", "gradients are the same with checkpointing on and off")
def _checkpointing() -> str:
    from align import encode_batch

    tokenizer, capture = zoo("student")
    batch = encode_batch(tokenizer, [TEXT])
    grads = []
    for switch in (False, True):
        model = capture.model.train()
        if switch:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        got = capture(batch.ids, batch.mask)
        (got.kv.k.square().mean() + got.kv.v.square().mean()).backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    capture.model.gradient_checkpointing_disable()
    capture.model.zero_grad()
    capture.model.eval()
    for off, on in zip(*grads, strict=True):
        close(on, off, atol=1e-7)
    return f"{len(grads[0])} gradients equal"


@check("teacher.extract_teacher_kv", "stored KV come back bit for bit, or not at all")
def _store() -> str:
    from teacher import TeacherKVExtractor
    from teacher.store import load_kvs

    extractor = TeacherKVExtractor("zoo:tiny/gpt2-prose")
    kvs = extractor.extract_kvs([TEXT, "two"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kvs"
        extractor.save_kvs(kvs, path)
        back = load_kvs(path)
        for one, other in zip(kvs, back, strict=True):
            assert torch.equal(one.k, other.k) and torch.equal(one.v, other.v)
        shard = max((p for p in path.rglob("*") if p.is_file()), key=_size)
        damaged = bytearray(shard.read_bytes())
        damaged[-9] ^= 1
        shard.write_bytes(damaged)
        try:
            load_kvs(path)
        except (ValueError, OSError) as error:
            return f"one flipped bit: {type(error).__name__}"
    raise AssertionError("a flipped bit was not noticed")


def _size(path: Path) -> int:
    return path.stat().st_size


@check("teacher.router_proto", "the nearest prototype wins, by every similarity")
def _prototypes() -> str:
    from teacher import compute_multi_teacher_prototypes, compute_routing_weights

    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3, 8) * 4
    noise = torch.randn(3, 50, 8, generator=generator) * 0.1
    features = list(centres[:, None] + noise)
    for method in ("mean", "kmeans"):
        prototypes = compute_multi_teacher_prototypes(features, method=method)
        for similarity in ("cosine", "dot", "l2"):
            w = compute_routing_weights(centres, prototypes, similarity=similarity)
            close(w.sum(-1), torch.ones(3))
            assert w.argmax(-1).tolist() == [0, 1, 2], (method, similarity)
    return "3 of 3, mean and k-means"
