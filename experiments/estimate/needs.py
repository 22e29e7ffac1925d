"""What extraction and training will need, said before anything runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from align.text.documents import TextSample
from experiments.assemble.data import Encoder
from experiments.assemble.models import Models
from experiments.assemble.precision import products
from experiments.config.tree import Config
from experiments.estimate.measured import device_memory, measured_training
from experiments.estimate.training import TrainingNeeds, advice, training_needs
from experiments.estimate.trial import Trial
from experiments.extraction.context import ExtractionContext, open_extraction
from experiments.extraction.corpus import Corpus
from experiments.extraction.forms import Made
from experiments.extraction.sources import Source, sources_of
from experiments.record.course import duration
from plugins.registry import Registry
from teacher.store.manifest import Plan
from teacher.store.packing import StoredSample, encode_sample, pack, shard_bytes
from teacher.store.records import Constants, codecs_of

PROBED = 16
"""Texts that a teacher is timed on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreNeeds:
    """What extracting one store needs."""

    name: str
    tokens: int
    """Stored tokens in all."""
    bytes_per_token: float
    disk: int
    """Bytes of the data files."""
    seconds: float
    """On this machine, by the probe."""
    tokens_per_second: float

    @property
    def break_even(self) -> float:
        """Bytes per second from which on reading beats computing again."""
        return self.bytes_per_token * self.tokens_per_second


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """All of it; sizes in bytes."""

    samples: int
    stores: list[StoreNeeds]
    free: int
    """On the disk of the stores."""
    memory: dict[str, int]
    """Of one training process, by what it is for."""
    device_memory: int
    """What the device has."""
    products: str
    """Type of matrix products in training; this machine's where it is asked."""
    training: TrainingNeeds
    """Arms, hours and disk of the run."""
    warnings: list[str] = field(default_factory=list)

    @property
    def disk(self) -> int:
        """Of all stores."""
        return sum(store.disk for store in self.stores)

    def plain(self) -> dict[str, Any]:
        """For other programs."""
        out = asdict(self)
        for row, store in zip(out["stores"], self.stores, strict=True):
            row["break_even"] = store.break_even
        return out | {
            "disk": self.disk,
            "memory_in_all": sum(self.memory.values()),
            "training": self.training.plain(),
        }


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
    extraction = open_extraction(config, registry)
    trial = Trial.of_extraction(extraction)
    measured = measured_training(trial, processes)  # while nothing else was held
    training = training_needs(trial, measured.paces, measured.trained, processes)
    stores = [_store(extraction, source, every) for source in sources_of(extraction)]
    free = shutil.disk_usage(_existing(config.store_dir)).free
    there = device_memory()
    types = products([stage.phase for stage in extraction.stages])
    memory, samples = measured.memory, extraction.corpus.samples
    needs = Estimate(
        samples=samples,
        stores=stores,
        free=free,
        memory=memory,
        device_memory=there,
        products=types,
        training=training,
    )
    needs.warnings.extend([*extraction.warnings, *_warnings(config, needs)])
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


def gib(size: float) -> str:
    """A size in words."""
    for unit, step in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= step:
            return f"{size / step:,.1f} {unit}"
    return f"{size / 1024:,.1f} KiB"


def rows_of(needs: Estimate) -> Mapping[str, list[list[str]]]:
    """The tables to print: arms, stores and memory."""
    stores = [
        [
            s.name,
            f"{s.tokens:,}",
            f"{s.bytes_per_token:,.0f}",
            gib(s.disk),
            f"{s.seconds / 3600:,.2f}",
            f"{gib(s.break_even)}/s",
        ]
        for s in needs.stores
    ]
    memory = memory_rows(needs.memory)
    return {"arms": arm_rows(needs.training), "stores": stores, "memory": memory}


def memory_rows(memory: Mapping[str, int]) -> list[list[str]]:
    """What takes memory and how much, with the sum."""
    rows = [[what, gib(size)] for what, size in memory.items()]
    return [*rows, ["in all", gib(sum(memory.values()))]]


def arm_rows(run: TrainingNeeds) -> list[list[str]]:
    """Arm, phases, steps, seconds a step, time."""
    return [
        [
            arm.arm,
            str(arm.phases),
            f"{arm.steps:,}",
            f"{arm.seconds / max(arm.steps, 1):,.2f}",
            duration(arm.seconds),
        ]
        for arm in run.arms
    ]


def said_of(run: TrainingNeeds) -> list[str]:
    """What a reader should know beside the table of arms."""
    again = [f"{arm} is {same}" for arm, same in run.repeated.items()]
    return [
        f"in all {duration(run.seconds)} for the steps; calibration, measurements and "
        "waiting come on top",
        *([f"not trained again: {', '.join(again)}"] if again else []),
        *filter(None, [advice(run), _of_answers(run)]),
        f"disk of the run: {run.students} students {gib(run.exports)}, checkpoints "
        f"while it trains {gib(run.checkpoints)}, answers of teachers meanwhile "
        f"{gib(run.answers.disk)}, in all {gib(run.disk)} of "
        f"{gib(run.free)} free",
    ]


def _of_answers(run: TrainingNeeds) -> str:
    """A sentence on what is kept for arms that read the same texts; or nothing."""
    answers = run.answers
    if not answers.share:
        return ""
    rest = (
        f"; {1 - answers.share:.0%} have no room and are asked again "
        "(answers.memory_gib, answers.disk_gib)"
        if answers.share < 1
        else ""
    )
    return (
        "what teachers say is kept for the arms that read the same texts: "
        f"{gib(answers.memory)} of memory, {gib(answers.disk)} on disk{rest}"
    )
