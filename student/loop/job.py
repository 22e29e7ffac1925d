"""What the loop of one phase is to do, who follows it, and what moves along."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from align.text.documents import TextSample
from fuse.beforehand.asking import Choose
from student.evaluate import Encode
from student.loop.batches import Views
from student.loop.data_order import Ordering, Writing
from student.loop.phase_checkpoint import Keeper


class Observer:
    """Follows a phase while it trains, and may end it; this one looks away."""

    def begin(self, done: int) -> None:
        """Hear, before the first step, how many are done already."""

    def log(self, line: dict[str, Any]) -> None:
        """Take one metrics line, without time, arm and phase."""

    def tick(self, done: int) -> None:
        """Hear, after every optimiser step, how many are done."""

    def should_stop(self) -> bool:
        """Say, after every optimiser step, whether to save and leave."""
        return False


class Companions(Protocol):
    """What moves with the student without being trained, such as its average."""

    def after_step(self, step: int) -> None:
        """Move after an optimiser step that was taken, the ``step``-th of the phase."""

    @property
    def asked(self) -> Collection[str]:
        """Teachers that are asked in the step that learns from them, before it moves
        them, and never ahead."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All that it remembers, by name, as it lies there; the same on every
        process."""


class Changing(Protocol):
    """What the student computes by in place of its own weights."""

    def at(self, step: int) -> None:
        """Be what it is after so many optimiser steps of the phase."""


class Watching(Protocol):
    """Measures the student within a phase, and says when nothing better comes."""

    @property
    def every(self) -> int:
        """Optimiser steps between two measurements."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All that it remembers, by name, as it lies there; the same on every
        process."""

    @property
    def stopped(self) -> bool:
        """Whether the phase is to end; the same on every process."""

    def see(self, step: int) -> dict[str, Any]:
        """Measure after so many steps; returns a metrics line. Every process takes
        part, and nothing that is drawn at random in the phase depends on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
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
    checkpoints: Keeper | None = None
    """Where resumable checkpoints go; None keeps none."""
    first_sample: int = 0
    """Number of the first sample: phases of one run read on, not again."""
    observer: Observer = field(default_factory=Observer)
    companions: Companions | None = None
    """What moves with the student; None where nothing does."""
    transforms: Changing | None = None
    """What changes it from step to step; None where nothing does."""
    writing: Writing | None = None
    """Stands in for some of the samples; None where all are read as given."""
    choose: Choose | None = None
    """Who is asked about which text, before anybody reads; None: all about all."""
    order: Ordering | None = None
    """Says which samples are read; None: each in its turn."""
    watch: Watching | None = None
    """What measures it within the phase; None where nothing does."""
