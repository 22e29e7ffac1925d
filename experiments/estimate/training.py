"""What training needs in time and on disk: arms, steps, students, checkpoints."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from experiments.assemble.checks import free_bytes
from experiments.estimate.trial import Trial
from experiments.record.course import phase_steps
from experiments.record.run_dir import CE_ONLY, MAIN, SINGLE
from experiments.run.arms import plan_arms, repeated_arms
from experiments.run.context import Arms, Stage
from experiments.run.measures.order import curriculum_of
from student.curriculum.choice import chosen_curriculum
from student.curriculum.scores import BY_TEACHER

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
    _: KW_ONLY
    asking: float = 0.0
    """What its teachers take of ``taught``, and an arm that finds their answers kept
    does not."""
    answers: Mapping[str, int] = field(default_factory=dict)
    """Bytes of what each of its teachers says of a batch."""
    peers: Mapping[str, float] = field(default_factory=dict)
    """What each of its peers takes for a pass of its own step, by name."""
    writing: float = 0.0
    """What of a buffer of texts is written for one pass, where anybody teaches."""
    transformed: bool = False
    """Whether the student computes by other weights than it trains."""

    def of(self, teachers: tuple[str, ...]) -> float:
        """With these teachers: by what they weigh beside all of the phase's."""
        taught = self.alone + (self.taught - self.alone) * self._share(teachers)
        beside = sum(self.peers.get(name, 0.0) for name in teachers)
        return taught + beside + (self.writing if teachers else 0.0)

    def asking_of(self, teachers: Iterable[str]) -> float:
        """What these teachers take, likewise."""
        return self.asking * self._share(tuple(teachers))

    def _share(self, teachers: tuple[str, ...]) -> float:
        every = tuple(self.weights) if self.teachers is None else self.teachers
        whole = sum(self.weights[name] for name in every)
        if whole:
            return sum(self.weights[name] for name in teachers) / whole
        return len(teachers) / max(1, len(every))  # all are read from a store


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptAnswers:
    """What teachers said of batches that several arms read; sizes in bytes."""

    memory: int = 0
    disk: int = 0
    share: float = 0.0
    """Of what several arms read, that which there is room for."""


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
    """Of the students of every phase of every arm, and the run's own; of a phase with
    transforms of weights also these as they were trained."""
    checkpoints: int
    """Of one phase while it goes on, at the most; gone when it is whole."""
    answers: KeptAnswers
    """Of teachers, for arms that read the same texts; gone when the run ends."""
    free: int
    """On the disk of the run."""
    peers: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each peer's part of an optimiser step, at the most."""
    writing: float = 0.0
    """Seconds of a step, at the most, in which texts are written."""
    untransformed: int = 0
    """Students that are kept as they were trained, too."""

    @property
    def seconds(self) -> float:
        """Of all arms."""
        return sum(arm.seconds for arm in self.arms)

    @property
    def disk(self) -> int:
        """At the most."""
        return self.exports + self.checkpoints + self.answers.disk

    @property
    def students(self) -> int:
        """Students that are written, the run's own included."""
        return sum(arm.phases for arm in self.arms) + 1 + self.untransformed

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
    trained_arms = {arm: arms[arm] for arm in arms if arm not in repeated}
    passes = [_passes(trial.learned, stage, processes) for stage in trial.stages]
    answers, spared = planned_answers(trial, trained_arms, paces, passes)
    # Only the run's own chain scores, and the others read what it has.
    spared[MAIN] -= scoring_seconds(trial, paces, passes, processes)
    needs = [
        _arm(name, stages, paces, passes, spared[name])
        for name, stages in trained_arms.items()
    ]
    kept = max(stage.phase.train.keep_checkpoints for stage in trial.stages)
    size = trial.models.student_bytes
    untransformed = len(needs) * sum(pace.transformed for pace in paces)
    return TrainingNeeds(
        machine=machine(),
        arms=needs,
        repeated=repeated,
        exports=size * (sum(arm.phases for arm in needs) + 1 + untransformed),
        untransformed=untransformed,
        checkpoints=KEPT
        * trained
        * (kept + 1),  # the oldest goes when the newest is whole
        answers=answers,
        free=free_bytes(trial.config.run_dir),
        **_beside(trial, paces),
    )


def scoring_seconds(
    trial: Trial, paces: Sequence[Pace], passes: Sequence[int], processes: int
) -> float:
    """Seconds, at the most, in which texts are scored for a curriculum: each text once
    a scoring, as if it was learned by next-token loss, with the teachers asked.

    Args:
        trial: the config's models and texts.
        paces: of each phase.
        passes: of each phase, in each process.
        processes: that score together.
    """
    chosen = chosen_curriculum(trial.config.data.curriculum)
    if chosen is None:
        return 0.0
    needs = curriculum_of(chosen, trial.registry).needs
    student = bool(needs & {"student_bits", "student_entropy", "divergence"})
    teachers = bool(needs & (BY_TEACHER | {"disagreement"}))
    seconds = 0.0
    for stage, pace, count in zip(trial.stages, paces, passes, strict=True):
        train = stage.phase.train
        every, steps = chosen.every(train.checkpoint_every), count // train.grad_accum
        scorings = -(-steps // every) if every else 1
        batches = -(-trial.learned // (train.batch_size * processes))
        seconds += scorings * batches * (student * pace.alone + teachers * pace.asking)
    return seconds


def _beside(trial: Trial, paces: Sequence[Pace]) -> dict[str, Any]:
    """What of an optimiser step peers and writing take, in the phase that has most."""
    peers: dict[str, float] = {}
    writing = 0.0
    for stage, pace in zip(trial.stages, paces, strict=True):
        passes = stage.phase.train.grad_accum
        writing = max(writing, passes * pace.writing)
        for name, took in pace.peers.items():
            peers[name] = max(peers.get(name, 0.0), passes * took)
    return {"peers": peers, "writing": writing}


def planned_answers(
    trial: Trial, arms: Arms, paces: Sequence[Pace], passes: Sequence[int]
) -> tuple[KeptAnswers, dict[str, float]]:
    """What is kept of teachers' answers, and the seconds that this spares every arm.

    Args:
        trial: the config's models.
        arms: those that are trained, in their order.
        paces: of each phase.
        passes: of each phase.
    """
    config, models = trial.config.answers, trial.models
    size, spared = 0, dict.fromkeys(arms, 0.0)
    for index, (pace, count) in enumerate(zip(paces, passes, strict=True)):
        arms_of: dict[str, list[str]] = {}
        for arm, stages in arms.items():
            for name in stages[index].teachers:
                arms_of.setdefault(name, []).append(arm)
        for name, asking in arms_of.items():
            remembered = name in models.standing and name not in models.sharded
            if not remembered or not config.keeps(name) or len(asking) < 2:
                continue
            size += count * pace.answers.get(name, 0)
            for arm in asking[1:]:
                spared[arm] += count * pace.asking_of((name,))
    memory, most = int(config.memory_gib * 2**30), int(config.disk_gib * 2**30)
    disk = min(most, free_bytes(trial.config.run_dir) // 2, max(0, size - memory))
    memory = min(memory, size)
    share = (memory + disk) / size if size else 0.0
    return (
        KeptAnswers(memory=memory, disk=disk, share=share),
        {arm: share * seconds for arm, seconds in spared.items()},
    )


def _passes(samples: int, stage: Stage, processes: int) -> int:
    """Forward passes of a phase, in each process."""
    train = stage.phase.train
    at_once = train.batch_size * train.grad_accum * processes
    return phase_steps(train, samples, at_once) * train.grad_accum


def _arm(
    name: str,
    stages: Sequence[Stage],
    paces: Sequence[Pace],
    passes: Sequence[int],
    spared: float,
) -> ArmNeeds:
    steps, seconds = 0, -spared
    for stage, pace, count in zip(stages, paces, passes, strict=True):
        steps += count // stage.phase.train.grad_accum
        seconds += count * pace.of(stage.teachers)
    return ArmNeeds(name, len(stages), steps, max(0.0, seconds))


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
