"""The loop of one phase: batches in, a better student out."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from align.support.process_memory import peak
from align.support.stopwatch import Stopwatch, part
from fuse.beforehand.asking import Asking, together
from fuse.routing_stats import RoutingStats
from student.checkpoint import NonFiniteStudentError
from student.config import TrainConfig
from student.distiller import Distiller, StepResult, layers_of, sums_of
from student.loop.batches import BatchMaker, TrainBatch, prefetched, waited
from student.loop.data_order import by_stretches
from student.loop.engine import Engine
from student.loop.job import Job, Observer
from student.loop.non_finite import (
    BadSteps,
    NonFiniteLossError,
    Trouble,
    describe_trouble,
    trouble_with,
)
from student.loop.phase_checkpoint import is_kept, load_checkpoint, save_checkpoint
from student.loop.prepared import Prepared
from student.places import Share
from student.select.kept import Kept
from student.select.passes import shared

__all__ = ["Job", "NonFiniteLossError", "Observer", "train_phase"]


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
        then a checkpoint was written, or when ``job.watch`` has ended the phase.

    Raises:
        NonFiniteLossError: ``config.max_bad_steps`` steps in a row could not be
            taken; a checkpoint of the last good one was written.
        CheckpointError: no checkpoint verifies, or it is another run's.
    """
    distiller.train()
    with engine.prepared(distiller, config, job.steps) as prepared:
        loop = _Loop(distiller, engine, prepared, job, config)
        done = loop.resume()
        loop.transform(done)
        job.observer.begin(done)
        train_batches = loop.train_batches(done)
        while done < job.steps and not loop.ended:
            loop.step(done, train_batches)
            done += 1
            loop.transform(done)
            job.observer.tick(done)
            loop.give_up_if_hopeless(done)
            loop.look(done)
            stop = engine.any(job.observer.should_stop())
            if stop or is_kept(done, job.steps, config.checkpoint_every):
                loop.save(done)
            if stop:
                break
        train_batches.close()
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
        self._bad = BadSteps(
            engine=engine, log=job.observer.log, may_overflow=config.fp16
        )
        self._routing: RoutingStats | None = None
        self._kept = Kept()
        self._maker: BatchMaker | None = None
        self._watch, self._asking = Stopwatch(engine.device), Asking()
        self._started, self._steps, self._tokens = time.perf_counter(), 0, 0

    def resume(self) -> int:
        """Load the newest checkpoint; returns the steps it had done."""
        keeper = self._job.checkpoints
        if keeper is None:
            return 0
        return load_checkpoint(
            keeper,
            self._engine,
            self._prepared,
            self._distiller,
            beside=self._beside,
            writing=self._job.writing,
        )

    @property
    def _beside(self) -> Mapping[str, Tensor]:
        parts = {"": self._job.companions, "watch/": self._job.watch}
        return {
            f"{name}{key}": tensor
            for name, part in parts.items()
            if part is not None
            for key, tensor in part.tensors.items()
        }

    @property
    def ended(self) -> bool:
        """Whether nothing better comes."""
        return self._job.watch is not None and self._job.watch.stopped

    def transform(self, done: int) -> None:
        """Have the student compute by what it does after so many steps."""
        if self._job.transforms is not None:
            self._job.transforms.at(done)

    def look(self, done: int) -> None:
        """Have the student measured, where it is time."""
        watch = self._job.watch
        if watch is None or done % watch.every or self._bad.troubles:
            return
        started = time.perf_counter()
        self._distiller.eval()
        line = watch.see(done)
        self._distiller.train()
        self._started += time.perf_counter() - started  # of no step
        self._job.observer.log(line)

    def save(self, done: int) -> None:
        """Write a checkpoint that appears whole or not at all."""
        keeper = self._job.checkpoints
        if keeper is None:
            return
        started = time.perf_counter()
        save_checkpoint(
            keeper,
            self._engine,
            self._prepared,
            self._distiller,
            done,
            beside=self._beside,
            writing=self._job.writing,
        )
        seconds = time.perf_counter() - started
        self._started += seconds  # of no step
        self._job.observer.log({"kind": "checkpoint", "step": done, "seconds": seconds})

    def train_batches(self, done: int) -> Generator[TrainBatch, None, None]:
        """What is read from here to the end of the phase."""
        job, engine, config = self._job, self._engine, self._config
        maker = BatchMaker(
            samples=job.samples,
            encode=job.encode,
            views=job.views,
            seed=job.seed,
            rows=self._distiller.compared_rows,
            batch_size=config.batch_size,
            first_sample=job.first_sample,
            device=engine.device,
            rank=engine.rank,
            world_size=engine.world_size,
            survey=self._distiller.survey,
            instead=None if job.writing is None else job.writing.in_place_of,
            chosen=None if job.order is None else job.order.indices,
            in_step=() if job.companions is None else job.companions.asked,
            dealt=engine.accumulation if config.batch_by == "tokens" else 0,
            choose=job.choose,
        )
        self._maker = maker
        passes = engine.accumulation
        ahead = config.prefetch and job.views is not None

        def between(first: int, last: int) -> Generator[TrainBatch, None, None]:
            read, first, last = maker.by_step(passes), first * passes, last * passes
            return prefetched(read, first, last, ahead, engine.device)

        if job.writing is None and job.order is None:
            return between(done, job.steps)
        return by_stretches(
            range(done, job.steps),
            between,
            job.writing,
            job.order,
            job.observer.log,
            whole=self._prepared.whole,
        )

    def step(self, step: int, train_batches: Iterator[TrainBatch]) -> None:
        """One optimiser step over all its forward passes."""
        self._distiller.timetable.taken()  # what was asked between steps
        self.transform(step)
        rates = self._prepared.set_learning_rate(step)
        results: list[StepResult] = []
        made: dict[str, float] = {}
        trouble: list[Trouble] = []
        samples: list[str] = []
        empty: list[str] = []
        applied = True
        with self._watch.listening():
            passes = shared(
                self._passes(step, train_batches),
                self._distiller,
                step,
                passes=self._engine.accumulation,
                total=self._engine.sum,
                anywhere=self._engine.any,
            )
            for train_batch, share in passes:
                with self._prepared.accumulate():
                    results.append(self._forward(train_batch, step, share, trouble))
                    with part("student"):
                        self._prepared.backward(results[-1].loss)
                    if self._prepared.at_boundary:
                        with part("optimiser"):
                            applied = self._prepared.step()
                for name, seconds in train_batch.seconds.items():
                    made[name] = made.get(name, 0.0) + seconds
                samples += [sample.id for sample in train_batch.samples]
                empty = share.learned.empty  # of the step, in each of its passes
                self._tokens += int(train_batch.batch.mask.sum())
                self._asking.note(train_batch.readings, train_batch.asking)
                self._count_routing(results[-1], train_batch)
                self._kept.update(results[-1].selected, train_batch)
        self._steps += 1
        if applied and self._job.companions is not None:
            with self._watch.listening():
                self._job.companions.after_step(step + 1)
        if results[0].health is not None:
            health = asdict(results[0].health)
            self._job.observer.log({"kind": "health", "step": step + 1, **health})
        if self._bad.note(step + 1, applied, trouble, samples) and (
            step % self._config.log_every == 0 or step == self._job.steps - 1
        ):
            idle = [name for name in empty if name in results[-1].terms]
            self._log(results, step, rates | ({"empty": idle} if idle else {}), made)

    def _passes(
        self, step: int, train_batches: Iterator[TrainBatch]
    ) -> Iterator[TrainBatch]:
        """The passes of a step, asked for one after another."""
        for number in range(self._engine.accumulation):
            keep = partial(self._keep, 0 if number else step)
            train_batch = waited(train_batches, keep)
            assert self._maker is not None
            yield self._maker.complete(train_batch)

    def _keep(self, done: int) -> None:
        """Save between two steps; of several processes the others do not know of it,
        and would wait for this one."""
        if done and self._engine.world_size == 1:
            self.save(done)

    def _forward(
        self, train_batch: TrainBatch, step: int, share: Share, trouble: list[Trouble]
    ) -> StepResult:
        """The loss of one pass; one whose gradients are NaN where it is of no use."""
        names = [sample.id for sample in train_batch.samples]
        domains = [sample.domain for sample in train_batch.samples]
        problem = train_batch.problem
        # ZeRO 2 and 3 reduce while they differentiate, and wait for ever for a process
        # whose pass reaches other parameters.
        poisoned = self._job.views is not None and self._engine.any(problem is not None)
        with part("student"):
            result: StepResult = self._prepared.module(
                train_batch.batch,
                train_batch.views,
                train_batch.rows,
                step,
                poisoned,
                share,
                domains,
                train_batch.numbers,
            )
        if problem is not None:
            trouble.append(trouble_with(problem, names))
        elif not poisoned and not bool(torch.isfinite(result.loss.detach())):
            bad = [n for n, v in result.terms.items() if not bool(torch.isfinite(v))]
            trouble.append(Trouble(what="loss", samples=names, terms=bad))
            return StepResult(loss=result.loss * torch.nan)
        return result

    def give_up_if_hopeless(self, done: int) -> None:
        """Stop after too many bad steps in a row, with a checkpoint from before them.

        Raises:
            NonFiniteLossError: names the last of them.
        """
        troubles = self._bad.troubles
        if len(troubles) < self._config.max_bad_steps:
            return
        weights = ""
        try:
            self.save(done - len(troubles))
        except NonFiniteStudentError as error:  # no step's fault alone
            weights = str(error)
        raise NonFiniteLossError(weights or describe_trouble(troubles, done))

    def _count_routing(self, result: StepResult, train_batch: TrainBatch) -> None:
        if result.routing is None:
            return
        if self._routing is None:
            self._routing = RoutingStats(teachers=list(result.teachers))
        domains = [sample.domain for sample in train_batch.samples]
        self._routing.note(result.routing, train_batch.batch, domains, result.soft)

    def _log(
        self,
        results: Sequence[StepResult],
        step: int,
        more: dict[str, Any],
        made: dict[str, float],
    ) -> None:
        names = list(results[0].terms)
        values = [*sums_of(results), float(self._tokens)]
        loss, *terms, tokens = self._engine.sum(values)
        line: dict[str, Any] = {
            "kind": "train",
            "step": step + 1,
            "loss": loss,
            "terms": dict(zip(names, terms, strict=True)),
            **more,
            "grad_norm": self._prepared.gradient_norm,
            **self._speed(tokens, made),
        }
        if moving := self._distiller.timetable.taken():
            line["schedules"] = moving
        line |= layers_of(results)
        bridge, last = self._distiller.bridge, results[-1]
        if last.coverage is not None:
            covered = zip(last.teachers, last.coverage.tolist(), strict=True)
            line["coverage"] = {n: share for n, share in covered if share == share}
        if bridge is not None:
            line["gates"] = bridge.gates.detach().float().tolist()
        self._job.observer.log(line)
        if self._routing is not None:
            self._log_routing(self._routing, step)
        if kept := self._kept.line(step + 1):
            self._job.observer.log({"kind": "selection", **kept})
            self._kept = Kept()

    def _speed(self, tokens: float, made: dict[str, float]) -> dict[str, Any]:
        """Rates since the last line, the parts of this step, memory at its highest.

        Args:
            tokens: of the student, over all processes, since the last line.
            made: seconds spent on this step's batches, meanwhile if ``prefetch``.
        """
        now = time.perf_counter()
        spent, steps = now - self._started, self._steps
        self._started, self._steps, self._tokens = now, 0, 0
        taken = together(self._watch.take())
        seconds = {name: value / steps for name, value in taken.items()}
        return {
            "tokens_per_s": tokens / spent,
            "step_s": spent / steps,
            "parts_s": seconds | made,
            "memory_gib": peak(self._engine.device) / 2**30,
        } | self._asking.take(steps)

    def _log_routing(self, stats: RoutingStats, step: int) -> None:
        """Report this process's routing since the last report."""
        line = {"kind": "routing", "step": step + 1, **stats.line()}
        self._job.observer.log(line)
        self._routing = None
