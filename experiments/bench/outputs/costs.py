"""The measurements behind ``python -m experiments.bench.outputs``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from align.text.documents import TextSample
from align.views import Teacher
from experiments.assemble.data import Encoder
from experiments.bench.measure import Bar, paired_ratio, show
from experiments.bench.school import BATCH, OUTPUTS_ALONE, School
from experiments.bench.step.costs import TOKENS, drawn_model, full_texts
from experiments.config.presets import builtin_presets, load_registry
from experiments.config.tree import load_config, resolve_phase
from teacher.capture.kv_capture import KVCapture
from teacher.extract_teacher_kv import TeacherKVExtractor
from teacher.live_teacher import LiveTeacher
from teacher.output_head import vocabulary_size
from teacher.store import Encoding, KVStore, Plan, open_store
from teacher.store.manifest import OutputShape, Sample, Shape
from teacher.store.packing import StoredSample
from teacher.store.reader import all_origins, text_digest
from teacher.store.upkeep import summarize
from teacher.stored_teacher import StoredTeacher

LIMIT = 1 / 3
TEACHERS = ("gpt2-prose", "qwen-code", "neox-mixed")


def _school(
    scale: str, teachers: Mapping[str, Teacher], samples: Sequence[TextSample]
) -> School:
    """A student that is taught by outputs of several teachers."""
    named = {name: {"model": name} for name in teachers}
    config = load_config(
        {"teachers": named, "phases": ["multi_basic"]},
        ["output.likelihood=1", *OUTPUTS_ALONE],
    )
    student = drawn_model(scale, "student", False)
    return School(
        resolve_phase(config, "multi_basic", builtin_presets()),
        load_registry(config),
        student=student,
        teachers=teachers,
        encode=Encoder(student.tokenizer, TOKENS),
        samples=samples,
    )


def measure(scale: str, rounds: int, top_k: int, sizes: Sequence[bool]) -> bool:
    """Measure and print; True where all bars are kept.

    Args:
        scale: of the zoo.
        rounds: pairs of steps.
        top_k: stored tokens a place.
        sizes: whether teachers are larger than the zoo's, each measured.
    """
    torch.set_num_threads(1)
    student = drawn_model(scale, "student", False)
    samples = full_texts(Encoder(student.tokenizer, TOKENS), BATCH)
    bars = []
    with tempfile.TemporaryDirectory() as folder:
        for larger in sizes:
            loaded = {name: _live(scale, name, larger) for name in TEACHERS}
            stored = {
                name: _stored(teacher, samples, Path(folder, f"{name}-{larger}"), top_k)
                for name, teacher in loaded.items()
            }
            ratio = paired_ratio(
                _school(scale, stored, samples).step,
                _school(scale, loaded, samples).step,
                rounds,
            )
            size = "twice as wide and deep" if larger else "of the zoo"
            bars.append(Bar(f"a step from stores / live teachers {size}", ratio, LIMIT))
        for name, teacher in stored.items():
            held = summarize(teacher.held.path)
            vocabulary = vocabulary_size(loaded[name].capture)
            print(
                f"{name}: {held.bytes_per_token:.0f} bytes a token, "
                f"top {min(top_k, vocabulary)} of {vocabulary:,}"
            )
    return show(bars)


def _live(scale: str, name: str, larger: bool) -> LiveTeacher:
    loaded = drawn_model(scale, name, larger)
    return LiveTeacher(name, loaded, KVCapture(loaded.model))


def _stored(
    teacher: LiveTeacher, samples: Sequence[TextSample], path: Path, top_k: int
) -> StoredTeacher:
    """What a store of its outputs alone holds of it."""
    texts = [sample.text for sample in samples]
    size = vocabulary_size(teacher.capture)
    extractor = TeacherKVExtractor(teacher.loaded, layers=(), device="cpu")
    sizes = teacher.sizes
    shape = Shape(
        layers=0, heads=sizes.heads, k_width=sizes.k_width, v_width=sizes.v_width
    )
    plan = Plan(
        version=3,
        form="raw",
        shape=shape,
        encoding=Encoding(name="bfloat16"),
        fingerprint={},
        samples=len(texts),
        shard_samples=64,
        outputs=OutputShape(vocabulary=size, top_k=min(top_k, size)),
    )
    writer = open_store(path, plan)
    rows = []
    for text, extracted in zip(
        texts, extractor.extract(texts, top_k=min(top_k, size)), strict=True
    ):
        k, v = extracted.kv.flat()
        origin = all_origins(extracted.kv.num_tokens)
        sample = StoredSample(k[:, 0], v[:, 0], origin, named=extracted.named)
        known = Sample(tokens=len(origin), text_sha256=text_digest(text))
        rows.append((known, writer.encode(sample)))
    for number in range(plan.shards):
        span = plan.span(number)
        writer.write(number, span.start, [rows[index] for index in span])
    writer.finish()
    return StoredTeacher(
        name=teacher.name,
        store=KVStore(path),
        tokenizer=teacher.tokenizer,
        kind=teacher.kind,
        family=teacher.family,
        sizes=teacher.sizes,
        causal=True,
    )
