"""The loop of one phase: batches in, a better student out."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.text import TextSample
from fuse.routing_stats import RoutingStats
from student.checkpoint import (
    atomic_folder,
    full_disk_named,
    mark_complete,
    read_complete,
)
from student.config import TrainConfig
from student.distiller import Distiller, StepResult
from student.engine import Engine, Prepared
from student.evaluate import Encode
from student.feed import Kitchen, Portion, Views, serve

Log = Callable[[dict[str, Any]], None]
"""Takes one metrics line, without time, arm and phase."""


class NonFiniteLossError(RuntimeError):
    """Too many losses in a row were not finite."""


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
        portions = loop.portions(done)
        while done < job.steps:
            loop.step(done, portions)
            done += 1
            job.tick(done)
            stop = engine.any(job.should_stop())
            every = config.checkpoint_every
            if stop or (every and done % every == 0 and done < job.steps):
                loop.save(done)
            if stop:
                break
        portions.close()
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

    def portions(self, done: int) -> Generator[Portion, None, None]:
        """What is read from here to the end of the phase."""
        job, engine, config = self._job, self._engine, self._config
        kitchen = Kitchen(
            job.samples,
            job.encode,
            job.views,
            job.seed,
            job.attention_rows if self._distiller.wants_rows() else 0,
            config.batch_size,
            job.first_sample,
            engine.device,
            engine.rank,
            engine.world_size,
        )
        first, last = done * config.grad_accum, job.steps * config.grad_accum
        ahead = config.prefetch and job.views is not None
        return serve(kitchen.portion, first, last, ahead)

    def step(self, step: int, portions: Iterator[Portion]) -> None:
        """One optimiser step over all its forward passes."""
        rate = self._prepared.set_learning_rate(step)
        for _ in range(self._config.grad_accum):
            portion = next(portions)
            with self._prepared.accumulate():
                result = self._prepared.module(
                    portion.batch, portion.views, portion.rows, step
                )
                if self._finite(result.loss, portion, step):
                    self._prepared.backward(result.loss)
                else:
                    # Every rank still takes part in the collectives, with zeros.
                    self._prepared.backward(_nothing(self._distiller))
            self._count_routing(result, portion)
        if step % self._config.log_every == 0 or step == self._job.steps - 1:
            self._log(result, step, rate)

    def _count_routing(self, result: StepResult, portion: Portion) -> None:
        bridge = self._distiller.bridge
        if bridge is None or result.routing is None:
            return
        if self._routing is None:
            self._routing = RoutingStats([teacher.name for teacher in bridge.teachers])
        self._routing.update(result.routing, [s.domain for s in portion.samples])

    def _finite(self, loss: Tensor, portion: Portion, step: int) -> bool:
        bad = self._engine.any(not math.isfinite(float(loss.detach())))
        if not bad:
            self._bad = 0
            return True
        self._bad += 1
        names = [sample.id for sample in portion.samples]
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

    def _log(self, result: StepResult, step: int, rate: float) -> None:
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
