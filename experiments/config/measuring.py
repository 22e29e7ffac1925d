"""The sections of a run's config on what it is measured by, and warned of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval

from align.errors import InputError
from align.support.field_types import (
    AtLeastOne,
    Count,
    NotNegative,
    Share,
    check_fields,
)
from fuse.config import COLLAPSE_SHARE, STARVED_SHARE, UNIFORM_ENTROPY


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineConfig:
    """What the run is measured against, on the same data and steps."""

    ce_only: bool = True
    """Train the same student by next-token loss alone."""
    single_teachers: Literal["all", "none"] | list[str] = "all"
    """Distil from each of these teachers alone; the best one is compared."""
    leave_one_out: Literal["all", "none"] | list[str] = "none"
    """Distil from all teachers but one, for each of these: what the student loses is
    what that teacher was worth. An arm for each; nobody takes the teacher's place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """What students are measured by, beside bits per character."""

    use: list[str | dict[str, Any]] = field(default_factory=lambda: ["bits_per_char"])
    """Evaluators, by name or as ``{use: NAME, OPTION: VALUE}``: after every phase, and
    of the teachers once (docs/evaluation.md)."""
    every: Count = 0
    """Optimiser steps between two measurements within a phase; 0: none. Not with ZeRO
    3."""
    pairs: list[str] = field(default_factory=list)
    """JSON lines with ``prompt`` and ``completion``, which ``generation`` asks;
    ``domain=path`` to name a domain."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value that its type does not take.
        """
        check_fields(self, "eval")


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig:
    """What becomes of a phase that did harm."""

    action: Literal["report", "rollback"] = "report"
    """``report`` says so; ``rollback`` also goes on from the student before the phase,
    in every arm, and decides on held-out text of its own where there is enough."""
    metric: str = "bits_per_char"
    """By which it decides: a metric of what ``eval.use`` names."""
    tolerance: Annotated[float, Interval(ge=0, le=math.inf)] = 0.01
    """A phase hurts if, in any domain, its student is worse by more than this share
    than the CE-only student after the same phase, or the student before the phase: 0.01
    allows 1 % more bits per held-out character."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value that its type does not take.
        """
        check_fields(self, "gate")


@dataclass(frozen=True, kw_only=True, slots=True)
class AlarmConfig:
    """When a run warns while it trains, once for each kind and phase.

    ``align.min_coverage`` is the threshold for text that teachers do not reach.
    """

    health_every: Count = 25
    """Optimiser steps between two measurements of the student's keys and values,
    on the training batch; 0 for none."""
    max_repetition: Share = 0.5
    """Mean share of a written text's runs of four tokens that it holds already, above
    which the writing (``data.written``) may be collapsing."""
    min_length: Share = 0.25
    """Mean length of what is written as a share of the phase's first buffer's, below
    which it may be collapsing."""
    min_spread: Share = 0.25
    """Standard deviation of keys or values, as a share of what it was when the phase
    began, below which they may be collapsing."""
    min_rank: Share = 0.5
    """Effective rank of keys or values, likewise."""
    max_weight: Share = COLLAPSE_SHARE
    """Mean routing weight of one teacher above which the router has collapsed."""
    max_entropy: Share = UNIFORM_ENTROPY
    """Routing entropy over log M above which the router chooses nothing; looked at in
    the second half of a phase, because routers start there."""
    min_weight: Share = STARVED_SHARE
    """Mean routing weight of a teacher below which it starves; likewise. 0: none
    does."""
    max_skipped: Count = 0
    """Steps of a phase that may be skipped for numbers that are not finite."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value that its type does not take.
        """
        check_fields(self, "alarms")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplesConfig:
    """Lines that the student writes before and after the run, for its report."""

    prompts: Count | list[str] = 3
    """Texts to go on from; or from the first words of how many held-out texts, of
    each domain in turn; 0 for none."""
    max_new_tokens: AtLeastOne = 32
    """Most tokens that it adds to each."""
    temperature: NotNegative = 0.0
    """0 takes the likeliest token every time; above, each is drawn by its probability,
    of logits divided by this, from the run's seed on."""
    during: bool = False
    """Have it write them every ``eval.every`` steps of a phase, too, for TensorBoard
    and ``train.trackers``; the report shows those before and after alone."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value that its type does not take, or an empty prompt.
        """
        check_fields(self, "samples")
        if isinstance(self.prompts, list) and "" in self.prompts:
            raise InputError(
                f"samples.prompts[{self.prompts.index('')}] is empty; give words to go "
                "on from, a number of held-out texts, or 0 for no samples"
            )
