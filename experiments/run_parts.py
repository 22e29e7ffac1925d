"""The parts of a run: what its arms share, one phase of an arm, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.config import Config, PhaseConfig
from experiments.data import RunData
from experiments.metrics import Metrics
from experiments.models import Models
from experiments.progress import Progress
from experiments.stop import StopRequest
from plugins.registry import Registry
from student.engine import Engine


@dataclass(frozen=True, slots=True)
class Stage:
    """One phase of one arm."""

    phase: PhaseConfig
    teachers: tuple[str, ...]
    """Empty: cross-entropy alone."""


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
    metrics: Metrics
    progress: Progress
    stop: StopRequest
    run_dir: Path
    run_id: str
    """Tells this run's checkpoints from another's."""
    trust: bool
    """Take checkpoints of other runs all the same."""
    changed_plugins: bool
    """Go on where a plugin's code has changed."""
    may_write: Callable[[], None]
    """Raises once another process has taken the run over."""


@dataclass(frozen=True, slots=True)
class Place:
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
