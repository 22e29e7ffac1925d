"""One peer in a phase: a student with an objective and an optimiser of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.assemble.data import Encoder
from student.config import TrainConfig
from student.distiller import Distiller, StepResult
from student.loop.batches import BatchMaker
from student.loop.engine import Engine, parameter_groups
from student.loop.non_finite import (
    BadSteps,
    NonFiniteLossError,
    Trouble,
    describe_trouble,
    trouble_with,
)
from student.loop.optimizer_state import build_optimizer
from student.loop.prepared import WHOLE_STATES
from student.loop.rates import Rates
from student.places import Share
from teacher.trained_teacher import TrainedTeacher


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Learner:
    """Takes a peer's steps, each on the texts of the student's."""

    name: str
    teacher: TrainedTeacher
    """As it teaches."""
    distiller: Distiller
    """As it learns."""
    encode: Encoder
    """Its tokenizer."""
    maker: BatchMaker
    engine: Engine
    config: TrainConfig
    """The phase's, with the peer's own learning rate."""
    optimizer: torch.optim.Optimizer
    rates: Rates
    bad: BadSteps

    @staticmethod
    def of(
        teacher: TrainedTeacher,
        distiller: Distiller,
        maker: BatchMaker,
        engine: Engine,
        *,
        config: TrainConfig,
        encode: Encoder,
        bad: BadSteps,
    ) -> Learner:
        """With an optimiser of its own, whole on every process."""
        groups = parameter_groups(distiller, config)
        places = [group.pop("place") for group in groups]
        decays = [group.pop("decays") for group in groups]
        optimizer = build_optimizer(groups, config)
        # Now, not in the first step: a checkpoint is read into what is there.
        state: Any = WHOLE_STATES[config.optimizer]
        state(optimizer).begin(0)
        return Learner(
            name=teacher.name,
            teacher=teacher,
            distiller=distiller,
            encode=encode,
            maker=maker,
            engine=engine,
            config=config,
            optimizer=optimizer,
            rates=Rates(config, places, distiller.timetable, decays),
            bad=bad,
        )

    def step(self, step: int) -> dict[str, Any] | None:
        """Take the optimiser step that follows the student's.

        Args:
            step: optimiser steps of the phase, this one included.

        Returns:
            A metrics line, where one is due; the same on every process.

        Raises:
            NonFiniteLossError: too many steps in a row could not be taken.
        """
        started = time.perf_counter()
        self.distiller.train()
        self.distiller.timetable.taken()
        rates, decay = self.rates.at(step - 1), self.rates.decay_at(step - 1)
        groups = self.optimizer.param_groups
        for group, rate, each in zip(groups, rates, decay, strict=True):
            group["lr"], group["weight_decay"] = rate, each
        results, trouble, samples = self._passes(step)
        norm = self._step(len(results) < self.engine.accumulation)
        taken = math.isfinite(norm)
        if not self.bad.note(step, taken, trouble, samples):
            if len(self.bad.troubles) >= self.config.max_bad_steps:
                said = describe_trouble(self.bad.troubles, step)
                raise NonFiniteLossError(f"peer {self.name!r}: {said}")
            return None
        every = self.config.log_every
        if (step - 1) % every and step != self.distiller.timetable.total_steps:
            return None
        losses = self._losses(results)
        seconds = round(time.perf_counter() - started, 4)
        mine = {**losses, "grad_norm": norm, **self.rates.named(step - 1)}
        return {"kind": "peer", "step": step, self.name: {**mine, "step_s": seconds}}

    def _passes(self, step: int) -> tuple[list[StepResult], list[Trouble], list[str]]:
        """The gradients of a step; of fewer passes where a teacher gave nothing."""
        passes = self.engine.accumulation
        read, counts = self.maker.by_step(passes), None
        results: list[StepResult] = []
        samples: list[str] = []
        for number in range((step - 1) * passes, step * passes):
            batch = read(number)
            samples += [sample.id for sample in batch.samples]
            if counts is None:  # the same in every batch of the step
                counts = batch.step.refilled(self.engine.sum(batch.step.flat()))
            if self.engine.any(batch.problem is not None):
                problem = batch.problem
                mine = [] if problem is None else [trouble_with(problem, samples)]
                return results, mine, samples
            share = Share(batch.places, batch.counts, counts, self.engine.sum)
            domains = [sample.domain for sample in batch.samples]
            result: StepResult = self.distiller(
                batch.batch, batch.views, batch.rows, step - 1, False, share, domains
            )
            result.loss.backward()
            results.append(result)
        return results, [], samples

    def _step(self, left_out: bool) -> float:
        """Add gradients up over processes, clip, step unless one is not finite.

        Returns:
            Their norm before clipping; NaN where the step is left out.
        """
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        if left_out:
            self.optimizer.zero_grad()
            return math.nan
        for parameter in parameters:
            if parameter.grad is None:  # as the student's step counts it
                parameter.grad = torch.zeros_like(parameter)
        if self.engine.world_size > 1:
            flat = torch.cat([p.grad.flatten() for p in parameters])
            torch.distributed.all_reduce(flat)
            parts = flat.split([p.numel() for p in parameters])
            for parameter, whole in zip(parameters, parts, strict=True):
                parameter.grad.copy_(whole.view_as(parameter))
        clip = torch.nn.utils.clip_grad_norm_
        norm = float(clip(parameters, self.config.max_grad_norm))
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _losses(self, results: list[StepResult]) -> dict[str, Any]:
        """The loss and its terms, over all passes and processes."""
        names = list(results[0].terms)
        mine = [float(sum(r.loss.detach().double() for r in results))]
        mine += [float(sum(r.terms[n].double() for r in results)) for n in names]
        loss, *terms = self.engine.sum(mine)
        return {"loss": loss, "terms": dict(zip(names, terms, strict=True))}

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Weights, buffers and moments, by name; the same on every process."""
        named = dict(self.distiller.named_parameters())
        moments = {
            f"{name}/{moment}": value
            for name, parameter in named.items()
            for moment, value in self.optimizer.state.get(parameter, {}).items()
        }
        return {**named, **dict(self.distiller.named_buffers()), **moments}
