"""The parts of a run: what its arms share, one phase of an arm, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.assemble.data import RunData
from experiments.assemble.models import Models
from experiments.config.tree import Config, PhaseConfig
from experiments.record.lease import Lease
from experiments.record.metrics import Metrics
from experiments.record.progress import Progress
from experiments.record.stop import StopRequest
from plugins.registry import Registry
from student.loop.engine import Engine
from teacher.answers import Answers


@dataclass(frozen=True, slots=True)
class Stage:
    """One phase of one arm."""

    phase: PhaseConfig
    teachers: tuple[str, ...]
    """Empty: cross-entropy alone."""


Arms = Mapping[str, list[Stage]]
"""The phases of every arm."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class PhasePosition:
    """Where a stage stands in its arm."""

    arm: str
    index: int
    folder: Path
    source: str | Path | None
    steps: int
    offset: int
    first_sample: int
    gated: bool
    """Whether the gate looks at its student."""
