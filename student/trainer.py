"""The loop of one phase: batches in, a better student out."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from align.text import TextSample
from align.tokens import TokenBatch
from align.view import TeacherView
from fuse.routing_stats import RoutingStats
from student.checkpoint import (
    atomic_folder,
    full_disk_named,
    mark_complete,
    read_complete,
)
from student.config import TrainConfig
from student.data_order import sample_indices
from student.distiller import Distiller, StepResult
from student.engine import Engine, Prepared
from student.evaluate import Encode

Log = Callable[[dict[str, Any]], None]
"""Takes one metrics line, without time, arm and phase."""


class NonFiniteLossError(RuntimeError):
    """Too many losses in a row were not finite."""


class Views(Protocol):
    """Runs the teachers, live or stored, on one batch."""

    def __call__(
        self, batch: TokenBatch, rows: Tensor | None = None
    ) -> Sequence[TeacherView]:
        """One view per teacher, in the bridge's order."""


@dataclass(frozen=True, slots=True)
class Job:
    """One phase of one arm."""

    samples: Sequence[TextSample]
    encode: Encode
    """The student's tokenizer."""
    views: Views | None
    """None trains without teachers."""
    steps: int
    """Optimiser steps."""
    seed: int
    attention_rows: int
    """Query positions compared per sample, where a term compares them."""
    checkpoints: Path | None = None
    """Where resumable checkpoints go; None keeps none."""
    first_sample: int = 0
    """Number of the first sample: phases of one run read on, not again."""
    log: Log = field(default=lambda line: None)
    tick: Callable[[int], None] = field(default=lambda step: None)
    """Called after every optimiser step, for a progress bar."""
    should_stop: Callable[[], bool] = field(default=lambda: False)
    """Asked at every optimiser step: save and leave?"""


def train_phase(
    distiller: Distiller, engine: Engine, job: Job, config: TrainConfig
) -> int:
    """Train for ``job.steps`` optimiser steps, resuming where a checkpoint stands.

    Args:
        distiller: the student with its teaching; trained in place.
        engine: prepared for it here.
        job: data, length and where to report.
        config: the loop's settings.

    Returns:
        Optimiser steps done in all; less than ``job.steps`` when asked to stop, and
        then a checkpoint was written.

    Raises:
        NonFiniteLossError: ``config.max_bad_steps`` losses in a row were not finite.
        CheckpointError: a checkpoint is damaged.
    """
    distiller.train()
    with engine.prepared(distiller, config, job.steps) as prepared:
        loop = _Loop(distiller, engine, prepared, job, config)
        done = loop.resume()
        while done < job.steps:
            loop.step(done)
            done += 1
            job.tick(done)
            stop = engine.any(job.should_stop())
            every = config.checkpoint_every
            if stop or (every and done % every == 0 and done < job.steps):
                loop.save(done)
            if stop:
                break
    distiller.eval()
    return done


class _Loop:
    """State of one phase's loop."""

    def __init__(
        self,
        distiller: Distiller,
        engine: Engine,
        prepared: Prepared,
        job: Job,
        config: TrainConfig,
    ) -> None:
        self._distiller, self._engine = distiller, engine
        self._prepared, self._job, self._config = prepared, job, config
        self._bad = 0
        self._routing: RoutingStats | None = None

    def resume(self) -> int:
        """Load the newest checkpoint; returns the steps it had done."""
        folder = self._folder
        if folder is None:
            return 0
        state = read_complete(folder)
        if state is None:
            return 0
        self._prepared.load(folder / "engine")
        return int(state["step"])

    def save(self, done: int) -> None:
        """Write a checkpoint that appears whole or not at all."""
        folder = self._folder
        if folder is None:
            return
        # accelerate saves from every rank, so all of them agree on one folder
        part = folder.with_name(f".{folder.name}.part")
        try:
            with full_disk_named(folder):
                self._prepared.save(part / "engine")
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self._engine.barrier()
        if self._engine.is_main:
            with atomic_folder(folder) as whole:
                for entry in part.iterdir():
                    entry.rename(whole / entry.name)
                mark_complete(whole, {"step": done})
            part.rmdir()
        self._engine.barrier()

    def step(self, step: int) -> None:
        """One optimiser step over all its forward passes."""
        rate = self._prepared.set_learning_rate(step)
        result: StepResult | None = None
        for index in range(self._config.grad_accum):
            batch = self._batch(step, index)
            rows = self._rows(batch, step)
            views = self._job.views(batch, rows) if self._job.views else ()
            with self._prepared.accumulate():
                result = self._prepared.module(batch, views, rows, step)
                if self._finite(result.loss, batch, step):
                    self._prepared.backward(result.loss)
                else:
                    # Every rank still takes part in the collectives, with zeros.
                    self._prepared.backward(_nothing(self._distiller))
            self._count_routing(result)
        assert result is not None
        if step % self._config.log_every == 0 or step == self._job.steps - 1:
            self._log(result, batch, step, rate)

    def _count_routing(self, result: StepResult) -> None:
        bridge = self._distiller.bridge
        if bridge is None or result.routing is None:
            return
        if self._routing is None:
            self._routing = RoutingStats([teacher.name for teacher in bridge.teachers])
        self._routing.update(result.routing, [s.domain for s in self._samples])

    def _batch(self, step: int, index: int) -> TokenBatch:
        size, engine = self._config.batch_size, self._engine
        passes = step * self._config.grad_accum + index
        first = self._job.first_sample + passes * size * engine.world_size
        count = len(self._job.samples)
        chosen = sample_indices(count, self._job.seed, first, size, engine.rank)
        self._samples = [self._job.samples[i] for i in chosen]
        return self._job.encode([s.text for s in self._samples]).to(engine.device)

    def _rows(self, batch: TokenBatch, step: int) -> Tensor | None:
        """Sample real query positions, (B, R); the same for every arm and resume."""
        if not self._distiller.wants_rows():
            return None
        generator = torch.Generator().manual_seed(self._job.seed * 7919 + step)
        shape = (batch.ids.shape[0], self._job.attention_rows)
        length = batch.mask.sum(1, keepdim=True).cpu()
        drawn = torch.rand(shape, generator=generator) * length
        return drawn.long().to(batch.ids.device)

    def _finite(self, loss: Tensor, batch: TokenBatch, step: int) -> bool:
        bad = self._engine.any(not math.isfinite(float(loss.detach())))
        if not bad:
            self._bad = 0
            return True
        self._bad += 1
        names = [sample.id for sample in self._samples]
        self._job.log(
            {
                "kind": "event",
                "event": "non-finite loss",
                "step": step,
                "samples": names,
            }
        )
        if self._bad >= self._config.max_bad_steps:
            raise NonFiniteLossError(
                f"the loss was not finite {self._bad} times in a row, last at step "
                f"{step} on samples {', '.join(names[:4])}…; lower "
                "train.learning_rate or the largest loss weight, or leave these "
                "samples out. What the earlier phases wrote is intact"
            )
        return False

    def _log(
        self, result: StepResult, batch: TokenBatch, step: int, rate: float
    ) -> None:
        names = list(result.terms)
        values = [result.loss.detach(), *result.terms.values()]
        mean = self._engine.mean(torch.stack([v.float() for v in values])).tolist()
        line: dict[str, Any] = {
            "kind": "train",
            "step": step + 1,
            "loss": mean[0],
            "terms": dict(zip(names, mean[1:], strict=True)),
            "lr": rate,
        }
        bridge = self._distiller.bridge
        if bridge is not None and result.coverage is not None:
            teachers = [teacher.name for teacher in bridge.teachers]
            line["coverage"] = dict(
                zip(teachers, result.coverage.tolist(), strict=True)
            )
            line["gates"] = bridge.gates.detach().float().tolist()
        self._job.log(line)
        if self._routing is not None:
            self._log_routing(self._routing, step)

    def _log_routing(self, stats: RoutingStats, step: int) -> None:
        """Report this process's routing since the last report; warn at the end."""
        line: dict[str, Any] = {
            "kind": "routing",
            "step": step + 1,
            "weights": stats.by_domain(),
            "leads": stats.confusion(),
            "entropy": stats.entropy(),
        }
        layers = stats.by_layer()
        if len(layers) > 1:
            line["layers"] = {str(index): row for index, row in enumerate(layers)}
        self._job.log(line)
        alarm = stats.alarm() if self._distiller.learns_routing else None
        if alarm and step == self._job.steps - 1:
            self._job.log({"kind": "event", "step": step + 1, "event": alarm})
        self._routing = None

    @property
    def _folder(self) -> Path | None:
        return self._job.checkpoints


def _nothing(distiller: Distiller) -> Tensor:
    """A zero loss that reaches every trained parameter."""
    parts = [p.float().sum() for p in distiller.parameters() if p.requires_grad]
    return 0.0 * torch.stack(parts).sum()
