"""What extraction and training will need, said before anything runs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.config import Config
from experiments.data import Encoder
from experiments.extraction.bench import Bench, open_bench
from experiments.extraction.sources import Source, sources_of
from experiments.outputs import output_plan
from experiments.teaching import build_faculty, build_objectives
from plugins.registry import Registry
from student.distiller import Distiller
from teacher.capture import KVCapture
from teacher.store.manifest import Plan
from teacher.store.records import Constants, codecs_of, sample_bytes

PROBED = 16
"""Texts that a teacher is timed on."""

FLOAT = 4
"""Bytes of a float32: weights, gradients and each of AdamW's two moments."""


@dataclass(frozen=True, slots=True)
class StoreNeeds:
    """What extracting one store needs."""

    name: str
    tokens: int
    """Stored tokens in all."""
    bytes_per_token: float
    disk: int
    """Bytes in all; lossless compression would make it less."""
    seconds: float
    """On this machine, by the probe."""
    tokens_per_second: float

    @property
    def break_even(self) -> float:
        """Bytes per second from which on reading beats computing again."""
        return self.bytes_per_token * self.tokens_per_second


@dataclass(frozen=True, slots=True)
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
        return out | {"disk": self.disk, "memory_in_all": sum(self.memory.values())}


def estimate(
    config: Config, processes: int = 1, registry: Registry | None = None
) -> Estimate:
    """Measure a sample of the text and a moment of each model.

    Args:
        config: what would be extracted and trained.
        processes: that train together, among which ZeRO divides.
        registry: plugins; None loads the built-in and the installed ones.

    Raises:
        ValueError: what would also stop the extraction.
    """
    bench = open_bench(config, registry)
    stores = [_store(bench, source) for source in sources_of(bench)]
    memory = training_memory(bench, processes)
    free = shutil.disk_usage(_existing(config.store_dir)).free
    device = _device_memory()
    found = Estimate(bench.corpus.samples, stores, free, memory, device)
    found.warnings.extend(_warnings(config, found))
    return found


def store_bytes(plan: Plan, tokens: list[int]) -> int:
    """Bytes of the tensors of texts of these lengths; exact without compression."""
    codecs = codecs_of(plan, _blank(plan))
    return sum(sample_bytes(codecs, plan.shape.layers, count) for count in tokens)


def _store(bench: Bench, source: Source) -> StoreNeeds:
    probe = bench.corpus.probe
    texts = [sample.text for sample in probe]
    raw = source.plan.form == "raw"
    loaded, _ = bench.models.teacher(source.teachers[0])
    encode = Encoder(loaded.tokenizer, None) if raw else bench.models.encode
    lengths = encode(texts).mask.sum(1).tolist()
    share = bench.corpus.samples / len(probe)
    tokens = round(sum(lengths) * share)
    disk = round(store_bytes(source.plan, lengths) * share)
    timed = probe[:PROBED]
    source.form(timed[:2])  # the first pass is slower than all others
    start = time.perf_counter()
    source.form(timed)
    spent = time.perf_counter() - start
    done = sum(lengths[: len(timed)])
    return StoreNeeds(
        source.name,
        tokens,
        disk / max(tokens, 1),
        disk,
        spent / len(timed) * bench.corpus.samples,
        done / spent,
    )


def training_memory(bench: Bench, processes: int = 1) -> dict[str, int]:
    """Bytes one training process holds at its peak, phase by phase the largest.

    Activations are those a real forward pass saves for its backward pass, losses and
    captured KV included.
    """
    largest: dict[str, int] = {}
    for index, stage in enumerate(bench.stages):
        found = _phase_memory(bench, index, list(stage.teachers), processes)
        if sum(found.values()) > sum(largest.values()):
            largest = found
    return largest


def _phase_memory(
    bench: Bench, index: int, names: list[str], processes: int
) -> dict[str, int]:
    phase = bench.stages[index].phase
    student = bench.models.student(None).to(bench.models.teacher(names[0])[1].device)
    if phase.train.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    capture = KVCapture(student)
    faculty = build_faculty(
        phase,
        bench.registry,
        capture,
        bench.models.encode,
        {name: bench.models.teacher(name) for name in names},
        {name: bench.config.teachers[name].weight for name in names},
        list(bench.corpus.probe),
        lambda items, title, total: items,
    )
    distiller = Distiller(
        student,
        capture,
        build_objectives(phase, bench.registry, True),
        phase.loss,
        faculty.teaching,
        torch.bfloat16 if phase.train.bf16 else None,
        output=output_plan(phase, capture, bench.models.student_tokenizer),
    )
    longest = bench.corpus.longest[: phase.train.batch_size]
    batch = bench.models.encode([s.text for s in longest]).to(capture.device)
    rows = torch.zeros(len(longest), phase.loss.attention_rows, dtype=torch.int64)
    views = faculty.panel(batch, rows.to(capture.device))
    held = _Saved({p.untyped_storage().data_ptr() for p in distiller.parameters()})
    with torch.autograd.graph.saved_tensors_hooks(held.keep, held.give):
        distiller(batch, views, rows.to(capture.device), step=0)
    trained = sum(p.numel() for p in distiller.parameters() if p.requires_grad)
    teachers = sum(
        p.numel() * p.element_size()
        for name in names
        for p in bench.models.teacher(name)[0].model.parameters()
    )
    kv = sum(view.kv.k.nbytes + view.kv.v.nbytes for view in views)
    stage = phase.train.zero_stage if phase.train.engine == "deepspeed" else 0

    def divided(size: int, least: int) -> int:
        """What is left of a part that ZeRO divides from a stage on."""
        return size // processes if stage >= least else size

    return {
        "student, bridge and router": divided(FLOAT * trained, 3),
        "gradients": divided(FLOAT * trained, 2),
        "optimiser": divided(2 * FLOAT * trained, 1),
        "activations and losses": held.size,
        "teachers' weights": 0 if bench.config.store.read else teachers,
        "teachers' KV": (2 if phase.train.prefetch else 1) * kv,
    }


class _Saved:
    """Counts what autograd keeps, each storage once, parameters left out."""

    def __init__(self, known: set[int]) -> None:
        self._known, self.size = set(known), 0

    def keep(self, tensor: Tensor) -> Tensor:
        """Note a tensor that is saved."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.size += storage.nbytes()
        return tensor

    @staticmethod
    def give(tensor: Tensor) -> Tensor:
        """Give it back."""
        return tensor


def _warnings(config: Config, found: Estimate) -> list[str]:
    out = []
    if found.disk > found.free:
        out.append(
            f"the stores need {gib(found.disk)}, and {gib(found.free)} are free in "
            f"{config.store.dir}: set store.encoding=int8 (half of bfloat16) or int4, "
            "store.form=adapted (the student's sizes), fewer data.train_samples, or "
            "another store.dir"
        )
    needed = sum(found.memory.values())
    if needed > found.device_memory:
        out.append(
            f"training needs about {gib(needed)} in one process, and the device has "
            f"{gib(found.device_memory)}: set train.gradient_checkpointing=true, a "
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


def _device_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gib(size: float) -> str:
    """A size in words."""
    for unit, step in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= step:
            return f"{size / step:,.1f} {unit}"
    return f"{size / 1024:,.1f} KiB"


def rows_of(found: Estimate) -> Mapping[str, list[list[str]]]:
    """The tables to print: stores and memory."""
    stores = [
        [
            s.name,
            f"{s.tokens:,}",
            f"{s.bytes_per_token:,.0f}",
            gib(s.disk),
            f"{s.seconds / 3600:,.2f}",
            f"{gib(s.break_even)}/s",
        ]
        for s in found.stores
    ]
    memory = [[what, gib(size)] for what, size in found.memory.items()]
    memory.append(["in all", gib(sum(found.memory.values()))])
    return {"stores": stores, "memory": memory}
