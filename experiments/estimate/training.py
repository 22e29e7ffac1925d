"""What training needs in time and on disk: arms, steps, students, checkpoints."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.assemble.checks import free_bytes
from experiments.estimate.trial import Trial
from experiments.record.run_dir import MAIN
from experiments.run.arms import CE_ONLY, SINGLE, phase_steps, plan_arms, repeated_arms
from experiments.run.context import Stage

KEPT = 12
"""Bytes of a checkpoint for every trained number: itself and AdamW's two moments."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of one pass of a phase over a batch of texts of the usual length."""

    taught: float
    """With all its teachers."""
    alone: float
    """By next-token loss alone."""
    weights: Mapping[str, int]
    """Bytes of every teacher of the run, by which one's part of the seconds is
    reckoned; of those that are read from a store 0."""
    teachers: tuple[str, ...] | None = None
    """The phase's; None: all of them. A baseline may have another one."""

    def of(self, teachers: tuple[str, ...]) -> float:
        """With these teachers: by what they weigh beside all of the phase's."""
        every = tuple(self.weights) if self.teachers is None else self.teachers
        whole = sum(self.weights[name] for name in every)
        if whole:
            share = sum(self.weights[name] for name in teachers) / whole
        else:  # all of them are read from a store
            share = len(teachers) / max(1, len(every))
        return self.alone + (self.taught - self.alone) * share


@dataclass(frozen=True, slots=True)
class ArmNeeds:
    """What one arm of a run needs."""

    arm: str
    phases: int
    steps: int
    """Optimiser steps of all its phases."""
    seconds: float
    """For the steps, on this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingNeeds:
    """What a run needs beside memory; sizes in bytes."""

    machine: str
    """Where steps were timed."""
    arms: list[ArmNeeds]
    """Those that are trained; the run's own chain first."""
    repeated: dict[str, str]
    """Arms that another one trains already -> that one."""
    exports: int
    """Of the students of every phase of every arm, and the run's own."""
    checkpoints: int
    """Of one phase while it goes on, at the most; gone when it is whole."""
    free: int
    """On the disk of the run."""

    @property
    def seconds(self) -> float:
        """Of all arms."""
        return sum(arm.seconds for arm in self.arms)

    @property
    def disk(self) -> int:
        """At the most."""
        return self.exports + self.checkpoints

    @property
    def students(self) -> int:
        """Students that are written, the run's own included."""
        return sum(arm.phases for arm in self.arms) + 1

    def plain(self) -> dict[str, Any]:
        """For other programs."""
        return asdict(self) | {"seconds": self.seconds, "disk": self.disk}


def training_needs(
    trial: Trial, paces: list[Pace], trained: int, processes: int = 1
) -> TrainingNeeds:
    """Count arms, steps, hours and bytes of a run.

    Args:
        trial: the config's models and texts.
        paces: of each of its phases.
        trained: numbers that the phase with most of them trains.
        processes: that train together, each at this machine's pace.
    """
    arms = plan_arms(trial.config, list(trial.stages))
    repeated = repeated_arms(arms)
    needs = [
        _arm(trial.learned, name, stages, paces, processes)
        for name, stages in arms.items()
        if name not in repeated
    ]
    kept = max(stage.phase.train.keep_checkpoints for stage in trial.stages)
    size = trial.models.student_bytes
    return TrainingNeeds(
        machine=machine(),
        arms=needs,
        repeated=repeated,
        exports=size * (sum(arm.phases for arm in needs) + 1),
        checkpoints=KEPT
        * trained
        * (kept + 1),  # the oldest goes when the newest is whole
        free=free_bytes(trial.config.run_dir),
    )


def _arm(
    samples: int,
    name: str,
    stages: list[Stage],
    paces: list[Pace],
    processes: int,
) -> ArmNeeds:
    steps, seconds = 0, 0.0
    for stage, pace in zip(stages, paces, strict=True):
        train = stage.phase.train
        at_once = train.batch_size * train.grad_accum * processes
        count = phase_steps(train, samples, at_once)
        steps += count
        seconds += count * train.grad_accum * pace.of(stage.teachers)
    return ArmNeeds(name, len(stages), steps, seconds)


def machine() -> str:
    """What this machine computes with, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads != 1 else ''}"


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "this processor"


def advice(needs: TrainingNeeds) -> str:
    """A sentence on what the baselines cost and how they cost less; or nothing."""
    kept = [arm for arm in needs.arms if arm.arm in (MAIN, CE_ONLY)]
    singles = sum(arm.arm.startswith(SINGLE) for arm in needs.arms)
    if not singles:
        return ""
    without = sum(arm.seconds for arm in kept)
    share = 1 - without / needs.seconds if needs.seconds else 0.0
    return (
        f"{singles} of {len(needs.arms)} arms train one teacher alone, each as many "
        f"steps as the run itself, {share:.0%} of the time: "
        "baselines.single_teachers=none, or a list of names, leaves them out"
    )
