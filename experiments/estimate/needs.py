"""What extraction and training will need, said before anything runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from align.text.documents import TextSample
from experiments.assemble.data import Encoder
from experiments.assemble.models import Models
from experiments.assemble.precision import products
from experiments.config.presets import load_registry
from experiments.config.tree import Config
from experiments.estimate.measured import Measured, measured_training
from experiments.estimate.steps import device_memory
from experiments.estimate.training import training_needs
from experiments.estimate.trial import Trial
from experiments.estimate.words import Estimate, StoreNeeds, gib
from experiments.extraction.context import (
    ExtractionContext,
    not_stored,
    open_extraction,
)
from experiments.extraction.corpus import Corpus
from experiments.extraction.forms import Made
from experiments.extraction.sources import Source, sources_of
from experiments.making.pairs import student_reads_pairs
from experiments.record.history import samples_per_step
from experiments.run.opening import load_run
from experiments.run.plan import plan_run
from experiments.sources.named import sources_of as teacher_sources
from plugins.registry import Registry
from student.loop.engine import Engine
from student.loop.launch import without_launcher
from teacher.store.manifest import Plan
from teacher.store.packing import StoredSample, encode_sample, pack, shard_bytes
from teacher.store.records import Constants, codecs_of

PROBED = 16
"""Texts that a teacher is timed on."""


def estimate(
    config: Config,
    processes: int = 1,
    registry: Registry | None = None,
    *,
    every: bool = False,
) -> Estimate:
    """Measure a sample of the text and a moment of each model.

    Args:
        config: what would be extracted and trained.
        processes: that train together, among which ZeRO divides.
        registry: plugins; None loads the built-in and the installed ones.
        every: count the tokens of every text, not of a sample: tokens and, without
            zstd, bytes are then exact.

    Raises:
        ValueError: what would also stop the extraction.
    """
    registry = registry or load_registry(config)
    unstored = not_stored(teacher_sources(config, registry))
    if unstored:
        first = unstored[0]
        is_store = teacher_sources(config, registry)[first].cost == "read"
        why = f"teachers.{first}.model is {config.teachers[first].model!r}, " + (
            "which is a store already" if is_store else "of which nothing can be stored"
        )
        return _of_a_run(config, registry, processes, why)
    if student_reads_pairs(config):
        why = f"student.model {config.student.model!r} is an encoder-decoder"
        return _of_a_run(config, registry, processes, why)
    extraction = open_extraction(config, registry)
    trial = Trial.of_extraction(extraction)
    measured = measured_training(trial, processes)  # while nothing else was held
    stores = [_store(extraction, source, every) for source in sources_of(extraction)]
    samples = extraction.corpus.samples
    return _estimate(
        trial, measured, processes, samples, stores=stores, warnings=extraction.warnings
    )


def _of_a_run(config: Config, registry: Registry, processes: int, why: str) -> Estimate:
    """What training needs, where something cannot be stored, and why."""
    plan = plan_run(config, registry)
    train = replace(plan.phases[0].train, engine="torch")
    said = f"{why}: no stores are counted"
    with without_launcher():
        engine = Engine(train, samples_per_step(config.run_dir, train))
        try:
            run = load_run(plan, engine)
            trial = Trial.of_run(run, engine.device)
            measured = measured_training(trial, processes)
        finally:
            engine.close()
    warnings = (*run.warnings, said)
    return _estimate(
        trial, measured, processes, len(run.data.train), stores=[], warnings=warnings
    )


def _estimate(
    trial: Trial,
    measured: Measured,
    processes: int,
    samples: int,
    *,
    stores: list[StoreNeeds],
    warnings: Sequence[str],
) -> Estimate:
    config = trial.config
    needs = Estimate(
        samples=samples,
        stores=stores,
        free=shutil.disk_usage(_existing(config.store_dir)).free,
        memory=measured.memory,
        device_memory=device_memory(),
        products=products([stage.phase for stage in trial.stages]),
        training=training_needs(trial, measured.paces, measured.trained, processes),
        transformed=measured.transformed,
    )
    needs.warnings.extend([*warnings, *_warnings(config, needs)])
    return needs


def _store(extraction: ExtractionContext, source: Source, every: bool) -> StoreNeeds:
    plan, probe = source.plan, extraction.corpus.probe
    lengths_of = _lengths_of(extraction.models, source)
    if every:
        tokens, disk = _counted(extraction.corpus, source, lengths_of)
    else:
        lengths = lengths_of(probe)
        share = extraction.corpus.samples / len(probe)
        tokens = round(sum(lengths) * share)
        disk = round(file_bytes(plan, lengths) * share)
    timed = probe[:PROBED]
    source.form(timed[:2])  # the first pass is slower than all others
    start = time.perf_counter()
    made = source.form(timed)
    spent = time.perf_counter() - start
    coding = 0.0
    if plan.encoding.zstd is not None:
        compressed, coding = _compressed(probe, source, made)
        disk = round(disk * compressed)
    return StoreNeeds(
        name=source.name,
        tokens=tokens,
        bytes_per_token=disk / max(tokens, 1),
        disk=disk,
        # One shard is encoded and written while the next is computed.
        seconds=max(spent, coding) / len(timed) * extraction.corpus.samples,
        tokens_per_second=sum(lengths_of(timed)) / spent,
    )


def file_bytes(plan: Plan, lengths: Sequence[int]) -> int:
    """Bytes of the data files of texts of these lengths, in order.

    Exact before lossless compression; records add some 200 bytes a text.
    """
    codecs, size = codecs_of(plan, _blank(plan)), plan.shard_samples
    assert size is not None
    return sum(
        shard_bytes(codecs, plan.shape.layers, lengths[start : start + size])
        for start in range(0, len(lengths), size)
    )


def _lengths_of(
    models: Models, source: Source
) -> Callable[[Sequence[TextSample]], list[int]]:
    """Tokens that are stored of each text."""
    encode = models.encode
    if source.plan.form == "raw":
        teacher = models.teacher(source.teachers[0])
        encode = Encoder(teacher.tokenizer, None)

    def lengths_of(samples: Sequence[TextSample]) -> list[int]:
        counts: list[int] = encode([s.text for s in samples]).mask.sum(1).tolist()
        return counts

    return lengths_of


def _counted(
    corpus: Corpus,
    source: Source,
    lengths_of: Callable[[Sequence[TextSample]], list[int]],
) -> tuple[int, int]:
    """Tokens and bytes of all texts, shard by shard."""
    tokens = disk = 0
    plan = source.plan
    assert plan.shard_samples is not None
    for _, texts in corpus.shards(plan.shard_samples, range(plan.shards)):
        lengths = lengths_of(texts)
        tokens += sum(lengths)
        disk += file_bytes(plan, lengths)
    return tokens, disk


def _compressed(
    probe: Sequence[TextSample], source: Source, made: Sequence[Made]
) -> tuple[float, float]:
    """What lossless compression leaves of some samples, and seconds it takes."""
    codecs = codecs_of(source.plan, source.measure(probe))
    start = time.perf_counter()
    encoded = [
        encode_sample(codecs, sample)
        for sample in made
        if isinstance(sample, StoredSample)
    ]
    tensors = pack(encoded, codecs, source.plan.encoding.zstd)
    spent = time.perf_counter() - start
    size = sum(piece.nbytes for pieces in tensors.values() for piece in pieces)
    lengths = [len(sample.origin) for sample in encoded]
    return size / shard_bytes(codecs, source.plan.shape.layers, lengths), spent


def _warnings(config: Config, needs: Estimate) -> list[str]:
    out = []
    if needs.disk > needs.free:
        out.append(
            f"the stores need {gib(needs.disk)}, and {gib(needs.free)} are free in "
            f"{config.store.dir}: set store.encoding=int8 (half of bfloat16) or int4, "
            "store.form=adapted (the student's sizes), fewer data.train_samples, or "
            "another store.dir"
        )
    run = needs.training
    if run.disk > run.free:
        out.append(
            f"the run writes {gib(run.disk)}, and {gib(run.free)} are free in "
            f"{config.run.dir}: set baselines.single_teachers=none, a smaller "
            "train.keep_checkpoints, or another run.dir"
        )
    needed = sum(needs.memory.values())
    if needed > needs.device_memory:
        out.append(
            f"training needs about {gib(needed)} in one process, and the device has "
            f"{gib(needs.device_memory)}: set train.gradient_checkpointing=true, a "
            "smaller train.batch_size with more train.grad_accum, train.zero_stage=2 "
            "over more processes, or store.read=true, which loads no teachers"
        )
    return out


def _blank(plan: Plan) -> Constants:
    """Constants of the right size, which decide no length."""
    out: Constants = {}
    for part, width in (("k", plan.shape.k_width), ("v", plan.shape.v_width)):
        out[f"{part}.mean"] = torch.zeros(plan.shape.layers, width)
        if plan.encoding.rank is not None:
            rank = plan.encoding.rank
            out[f"{part}.basis"] = torch.zeros(plan.shape.layers, width, rank)
    return out


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.resolve().parents) if p.exists())
