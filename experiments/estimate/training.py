"""What training needs in time and on disk: arms, steps, students, checkpoints."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from experiments.assemble.checks import free_bytes
from experiments.estimate.asked import asked_shares
from experiments.estimate.trial import Trial
from experiments.record.course import phase_steps
from experiments.record.run_dir import CE_ONLY, MAIN, SINGLE
from experiments.run.arms import plan_arms, repeated_arms
from experiments.run.context import Arms, Stage
from experiments.run.measures.order import scores_needed
from student.curriculum.choice import chosen_curriculum
from student.curriculum.scores import OF_STUDENT, OF_TEACHERS

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

    def resting(self, asked: Mapping[str, float]) -> float:
        """What teachers would take for the texts that they are not asked about.

        Args:
            asked: by teacher, the share of texts that it is asked about.
        """
        return sum((1 - part) * self.asking_of((n,)) for n, part in asked.items())

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
    scoring: float = 0.0
    """Of the seconds, those in which texts are scored, at the most."""
    asked: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By phase in which teachers rest, and by teacher, the share of the texts that the
    run's own chain asks it about."""
    resting: float = 0.0
    """Seconds that this spares in all arms; they are not among ``seconds``."""
    notes: Sequence[str] = ()
    """What a user should know of who is asked."""

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
    notes: dict[str, None] = {}
    asked = {
        arm: [
            asked_shares(trial, stage, partial(_noted, arm, notes)) for stage in stages
        ]
        for arm, stages in trained_arms.items()
    }
    answers, spared = planned_answers(trial, trained_arms, paces, passes, asked)
    resting = {
        arm: sum(
            count * pace.resting(shares)
            for count, pace, shares in zip(passes, paces, of_arm, strict=True)
        )
        for arm, of_arm in asked.items()
    }
    # Only the run's own chain scores, and the others read what it has.
    scoring = scoring_seconds(trial, paces, passes, processes)
    spared[MAIN] -= scoring
    for arm, seconds in resting.items():
        spared[arm] += seconds
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
        scoring=scoring,
        asked={
            stage.phase.name: shares
            for stage, shares in zip(trial.stages, asked[MAIN], strict=True)
            if shares
        },
        resting=sum(resting.values()),
        notes=list(notes),
        **_beside(trial, paces),
    )


def _noted(arm: str, notes: dict[str, None], sentence: str) -> None:
    """Keep what is said of the run's own chain, once."""
    if arm == MAIN:
        notes[sentence] = None


def scoring_seconds(
    trial: Trial, paces: Sequence[Pace], passes: Sequence[int], processes: int
) -> float:
    """Seconds, at the most, in which texts are scored for a curriculum, or a router
    that chooses by difficulty: each text once a scoring, as if it was learned by
    next-token loss, with the teachers asked.

    Args:
        trial: the config's models and texts.
        paces: of each phase.
        passes: of each phase, in each process.
        processes: that score together.
    """
    chosen = chosen_curriculum(trial.config.data.curriculum)
    seconds = 0.0
    for stage, pace, count in zip(trial.stages, paces, passes, strict=True):
        train = stage.phase.train
        first, again = scores_needed(trial.config, stage.phase, trial.registry)
        every = 0 if chosen is None else chosen.every(train.checkpoint_every)
        steps = count // train.grad_accum
        more = -(-steps // every) - 1 if every else 0
        batches = -(-trial.learned // (train.batch_size * processes))
        seconds += batches * (_scoring(pace, first) + more * _scoring(pace, again))
    return seconds


def _scoring(pace: Pace, needs: frozenset[str]) -> float:
    """Seconds in which a batch is scored."""
    student = bool(needs & OF_STUDENT)
    teachers = bool(needs & OF_TEACHERS)
    return student * pace.alone + teachers * pace.asking


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
    trial: Trial,
    arms: Arms,
    paces: Sequence[Pace],
    passes: Sequence[int],
    asked: Mapping[str, Sequence[Mapping[str, float]]] = MappingProxyType({}),
) -> tuple[KeptAnswers, dict[str, float]]:
    """What is kept of teachers' answers, and the seconds that this spares every arm.

    Args:
        trial: the config's models.
        arms: those that are trained, in their order.
        paces: of each phase.
        passes: of each phase.
        asked: by arm and phase, the share of texts that each teacher is asked about,
            none where that is all of them. An answer is that to a whole batch, so that
            who rests on some texts gives none that another arm asks for.
    """
    config, models = trial.config.answers, trial.models
    size, spared = 0, dict.fromkeys(arms, 0.0)
    for index, (pace, count) in enumerate(zip(paces, passes, strict=True)):
        arms_of: dict[str, list[str]] = {}
        for arm, stages in arms.items():
            rests = asked[arm][index] if arm in asked else {}
            for name in stages[index].teachers:
                if rests.get(name, 1.0) < 1:
                    continue
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
