"""The parts of a run: what its arms share, one phase of an arm, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path

from align.foreign.quote import say
from experiments.assemble.data import RunData
from experiments.assemble.models import Models
from experiments.choosing.before_reading import Choosing
from experiments.config.tree import Config, PhaseConfig
from experiments.evaluators.chosen import Chosen
from experiments.record.lease import Lease
from experiments.record.metrics import Metrics
from experiments.record.progress import Progress
from experiments.record.run_dir import MAIN, arm_folder
from experiments.record.stop import StopRequest
from plugins.registry import Registry
from student.checkpoint import read_complete
from student.loop.engine import Engine
from student.transforms.choice import chosen_transforms
from teacher.answers import Answers
from teacher.loading.vouched import UNTRANSFORMED
from teacher.sources.base import PhaseStart

ATTACHED = {"block_sparse", "fake_quant", "low_rank"}
"""Transforms whose student computes by other weights than it trains."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One phase of one arm."""

    phase: PhaseConfig
    teachers: tuple[str, ...]
    """Empty: cross-entropy alone."""


def single_stage(stage: Stage, teacher: str) -> Stage:
    """The same phase with one teacher, which then has all the weight; with none where
    that one is not there yet."""
    if teacher in stage.phase.absent:
        return Stage(stage.phase, ())
    fuse = replace(
        stage.phase.fuse, fusion_method="fixed", weights=[1.0], choice="soft"
    )
    return Stage(replace(stage.phase, fuse=fuse), (teacher,))


Arms = Mapping[str, list[Stage]]
"""The phases of every arm."""


def asked_in(arms: Arms) -> set[str]:
    """The teachers that some phase of some arm takes."""
    return {n for stages in arms.values() for stage in stages for n in stage.teachers}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadAgain:
    """Teachers of a run that are asked again after one phase of one arm."""

    phase: frozenset[str]
    """About what this phase trains on: by an arm that comes after."""
    calibration: frozenset[str]
    """About the texts of calibration: also by the arm's own later phases."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunContext:
    """Everything the arms of one run share."""

    config: Config
    registry: Registry
    engine: Engine
    evaluators: Chosen
    """What students are measured by, bits per character among them."""
    models: Models
    data: RunData
    texts: Mapping[str, str]
    """Digests of what is learned from."""
    files: Mapping[str, Mapping[str, str]]
    """Digests of the files of models, by name."""
    arms: Arms
    """Every arm that the run reports, see :func:`experiments.run.arms.plan_arms`."""
    answers: Answers
    """What teachers said of the texts that several arms read."""
    again: Mapping[tuple[str, int], ReadAgain]
    """By arm and index of its phase, see :func:`experiments.run.arms.plan_again`."""
    metrics: Metrics
    progress: Progress
    stop: StopRequest
    lease: Lease | None
    """None on all processes but the first."""
    run_dir: Path
    run_id: str
    """Tells this run's checkpoints from another's."""
    trust: bool
    """Take phases and checkpoints of other accounts and runs all the same."""
    changed_plugins: bool
    """Go on where a plugin's code has changed."""
    started: float
    """When this launch began, by the monotonic clock."""

    def may_write(self) -> None:
        """See, before writing, that the run is still this launch's.

        Raises:
            LeaseLostError: another process has taken it over.
        """
        if self.lease is not None:
            self.lease.check()

    def choosing(self, stage: Stage, position: PhasePosition) -> Choosing:
        """What the teachers of each text are chosen by in one phase of one arm."""

        def tell(sentence: str) -> None:
            if self.engine.is_main and position.arm == MAIN:
                say(f"warning: phase {stage.phase.name}: {sentence}")

        return Choosing(
            registry=self.registry,
            samples=self.data.train,
            seed=self.config.run.seed,
            tied=self.models.sharded,
            tell=tell,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PhasePosition:
    """Where a stage stands in its arm."""

    arm: str
    index: int
    folder: Path
    start: PhaseStart
    """What its arm's earlier phases left."""
    steps: int
    offset: int
    first_sample: int
    gated: bool
    """Whether the gate looks at its student."""


def phase_folder(run_dir: Path, arm: str, index: int, stage: Stage) -> Path:
    """Where an arm keeps one phase, counted from 0."""
    return arm_folder(run_dir, arm) / f"{index + 1}-{stage.phase.name}"


def phase_seed(seed: int, index: int) -> int:
    """What is drawn at random in a phase begins here.

    Args:
        seed: the run's.
        index: of the phase in its arm, counted from 0.
    """
    return seed * 1000 + index


def _measured(folder: Path) -> float:
    """Mean bits per character over domains of the student that a phase left."""
    state = read_complete(folder) or {}
    bpc = state.get("gate_bpc") or state.get("bpc") or {"": nan}
    return sum(bpc.values()) / len(bpc)


def _trained(student: Path) -> Path:
    """The weights that a phase trained, where its student computes by others."""
    untransformed = student.with_name(UNTRANSFORMED)
    return untransformed if untransformed.is_dir() else student


def starts_transformed(start: PhaseStart, before: Sequence[Stage]) -> str:
    """A sentence where a phase goes on from weights that are not those trained.

    Earlier versions kept a transformed student as it computes, and nothing else.

    Args:
        start: of the phase.
        before: the phases before it.

    Returns:
        Empty where the trained weights are there, or no built-in transform was on them.
    """
    if start.begins is None or start.begins.name == UNTRANSFORMED:
        return ""
    phase = next(s.phase for s in before if s.phase.name == start.kept[-1])
    chosen = chosen_transforms(phase.transform).values()
    kinds = sorted({each.kind for each in chosen} & ATTACHED)
    if not kinds:
        return ""
    return (
        f"phase {phase.name!r} was finished by a version that kept its student as "
        f"{' and '.join(kinds)} left it, without the weights that were trained "
        f"({UNTRANSFORMED}/): the next phase goes on from these; train phase "
        f"{phase.name!r} again, in a new run, to go on from what was trained"
    )


def start_of(
    run: RunContext, arm: str, stages: Sequence[Stage], kept: Sequence[str]
) -> PhaseStart:
    """Where an arm stands as a phase begins.

    Args:
        run: what all arms share.
        arm: its name.
        stages: its phases up to that one.
        kept: names of those before it that were not rolled back.
    """
    *before, stage = stages
    goes_on = stage.phase.begins == "last" and bool(kept)
    earlier = {
        done.phase.name: phase_folder(run.run_dir, arm, index, done) / "student"
        for index, done in enumerate(before)
    }
    return PhaseStart(
        earlier=earlier,
        measured={name: _measured(earlier[name].parent) for name in kept},
        kept=kept,
        begins=_trained(earlier[kept[-1]]) if goes_on else None,
        drawn=phase_seed(run.config.run.seed, len(before))
        if stage.phase.begins == "anew"
        else None,
        texts_per_step=run.engine.samples_per_step,
        texts=len(run.data.train),
    )
