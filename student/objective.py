"""What a term of the loss is, and all that it reads; each is a plugin of one kind.

A term reads one :class:`StepContext` and returns a scalar. Everything it compares
with is detached before it arrives: no term can move a target, so no term can win
by shrinking both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol, TypeGuard, TypeVar

import torch
from torch import Tensor

from align.errors import InputError
from align.schedules import Setting, Timetable
from align.support.digest import seed_of
from align.tokens.batch import TokenBatch
from align.tokens.weights import label_weight
from align.views import ATTENTION as ATTENTION
from align.views import EMBEDDINGS as EMBEDDINGS
from align.views import HEADS as HEADS
from align.views import HIDDEN as HIDDEN
from align.views import KEYS_VALUES as KEYS_VALUES
from align.views import NORMED as NORMED
from align.views import OUTPUTS as OUTPUTS
from align.views import RESIDUAL as RESIDUAL
from align.views import STATES as STATES
from student.compared import EPS as EPS
from student.compared import AttentionPair as AttentionPair
from student.compared import Compared as Compared
from student.compared import Comparison as Comparison
from student.compared import HeadAttention as HeadAttention
from student.compared import HiddenOutput as HiddenOutput
from student.compared import LastStates as LastStates
from student.compared import Relation as Relation
from student.compared import Reread as Reread
from student.compared import Side as Side
from student.compared import Sides as Sides
from student.places import Places
from student.step_outputs import Outputs

Options = TypeVar("Options")

NONE: frozenset[str] = frozenset()
RELATIONS = "relations"
NEEDS = STATES | {ATTENTION, HEADS, RELATIONS, OUTPUTS}
"""All that an objective may say it needs."""

LEAST = 1e-9
"""Keeps a quotient of weights finite where there are none."""


@dataclass(frozen=True, slots=True, eq=False)
class StepContext:
    """What one forward pass of a training step hands to every term."""

    batch: TokenBatch
    """The student's tokens, (B, T)."""
    output: Tensor | HiddenOutput
    """(B, T, V) float, the student's next-token logits, or what they come from."""
    comparisons: Sequence[Compared] = ()
    _: KW_ONLY
    attention: Sequence[AttentionPair] = ()
    """Filled when a term needs ``attention``."""
    heads: Sequence[HeadAttention] = ()
    """Filled when a term needs ``heads``."""
    relations: Sequence[Relation] = ()
    """Filled when a term needs ``relations``."""
    inside: Mapping[str, Sequence[Sides]] = field(default_factory=dict)
    """Filled with those of ``STATES`` that a term needs."""
    own: Mapping[str, Tensor] = field(default_factory=dict)
    """The student's of them, with its gradient, teachers or none: (L, B, T, C) float,
    of ``embeddings`` (1, B, T, C')."""
    reread: Reread | None = None
    """Has the student read once more, for terms that are alone; filled in a run."""
    routing: Tensor | None = None
    """(B, T, M), or (L, B, T, M) where layers are routed by themselves, float32
    weights over teachers, detached."""
    step: int = 0
    """Optimiser steps taken in this phase."""
    outputs: Outputs | None = None
    """Filled when a term needs ``outputs``."""
    temperature: Tensor | None = None
    """(L,) float32 > 0, the softmax temperature of attention and relations at each of
    the student's layers; None: 1."""
    timetable: Timetable = field(default_factory=Timetable)
    """What settings are at a step."""
    place: str = "loss"
    """Where the options of the term that reads it stand: ``loss.terms.NAME``."""
    over_processes: Callable[[Sequence[float]], list[float]] = list
    """Adds up numbers of this pass over all processes, which must all ask."""
    by_text: Tensor | None = None
    """(B,) float32 >= 0, by what the domain of each text multiplies what it costs, see
    ``loss.domain_balance``; weights of what is compared hold it already. None: 1."""
    by_token: Tensor | None = None
    """(B, T) float32 >= 0, by what selectors multiply the next-token loss of each token
    that is predicted, see ``loss.select``; weights of what is compared hold theirs
    already. None: 1."""
    smoothing: float = 0.0
    """Probability that the next-token loss spreads evenly over the vocabulary."""
    totals: tuple[float, ...] | None = None
    """What the term's own :attr:`Objective.count` comes to over all passes and
    processes of the optimiser step; None: this pass is all there is, or the term does
    not count."""

    def number(self, setting: Setting, option: str) -> float:
        """What an option of the term that reads it is at this step."""
        return self.timetable.value(setting, f"{self.place}.{option}", self.step)

    def options(self, options: Options, option: str) -> Options:
        """What an option that has options of its own is, see
        :meth:`.Timetable.options`."""
        return self.timetable.options(options, f"{self.place}.{option}", self.step)

    def of_texts(self, weight: Tensor) -> Tensor:
        """(B, T) weights of tokens, times those of their texts."""
        return weight if self.by_text is None else weight * self.by_text[:, None]

    @property
    def labels(self) -> Tensor:
        """(B, T) float32, what each token counts in the next-token loss, see
        :func:`align.tokens.weights.label_weight` and ``by_token``."""
        weight = label_weight(self.batch)
        return weight if self.by_token is None else weight * self.by_token

    @property
    def states(self) -> Sequence[Sides]:
        """Hidden states, where a term needs ``hidden``."""
        return self.inside.get(HIDDEN, ())

    @property
    def logits(self) -> Tensor:
        """(B, T, V) float, the student's next-token logits; at a large vocabulary the
        largest tensor of a step, made only where a term asks for it."""
        return self.output if isinstance(self.output, Tensor) else self.output.logits

    def chance(self) -> torch.Generator:
        """Where the term that reads it gets what it draws in a step: by the run's seed,
        its own name and the step, alike in all passes and processes."""
        seed = seed_of(self.timetable.seed, self.place, self.step)
        return torch.Generator().manual_seed(seed)

    def total(self, index: int, weight: Tensor | float) -> Tensor | float:
        """What a sum over this pass is divided by; never 0.

        Args:
            index: among what the term counts.
            weight: what this pass alone weighs, where it is all there is.
        """
        if self.totals is not None:
            return max(self.totals[index], LEAST)
        if isinstance(weight, Tensor):
            return weight.clamp_min(LEAST)
        return max(weight, LEAST)

    def zero(self) -> Tensor:
        """A float32 0 where the student is."""
        return torch.zeros((), device=self.batch.ids.device)


@dataclass(frozen=True, slots=True, eq=False)
class ChosenLayers:
    """Which layers a term read in a pass, where its settings alone do not say so."""

    layers: Sequence[int] | None
    """Ascending, from 0; None where settings say which."""
    weights: Tensor | None = None
    """(L,) float, detached, how much each of the student's layers counted, 0 of those
    that were not read; None where settings say so."""


Count = Callable[[Places], Sequence[float]]
"""What the places of one forward pass weigh, by tokens and alignments alone."""


class Objective(Protocol):
    """One term of the loss; a module where it learns something itself.

    An optimiser step is one mean over all that its forward passes, on all processes,
    compare. A term may have a method ``count`` that maps :class:`Places` to numbers
    K >= 1: what the places of one pass weigh, known before the student has read, the
    first of them 0 where there is nothing for it to compare. Then
    ``ctx.totals`` holds their sums over the step, and the term gives its sum over the
    pass divided by them (``ctx.total``). A term without one gives a mean over the
    pass, which counts with the pass's share of the step's predicted tokens.

    A term that is built for sizes has a method ``meet``, which is told those of the
    student and of the phase's teachers before anything else; see
    :func:`student.step.context.introduce`.

    A term that asks no teacher says so by an attribute ``alone`` that is True: it may
    need ``STATES`` only, reads them in ``ctx.own``, and stays where a phase or an arm
    has no teachers. The next-token loss is one.

    A term that is a module may have a method ``fit`` that takes an iterable of
    :class:`StepContext`: what the phase's calibration sample looks like before the
    first step, for parameters and buffers that start from data. Each pass over it
    runs the student and the teachers again. See :func:`student.fitting.fit_terms`.

    A term that reads other layers from step to step, or weighs them otherwise, has an
    attribute ``chosen``: :class:`ChosenLayers` of the pass that it read last, or None.
    """

    @property
    def needs(self) -> frozenset[str]:
        """What must be captured for it: any of ``attention``, ``heads``,
        ``relations``, ``outputs`` and ``STATES``."""

    def __call__(self, ctx: StepContext) -> Tensor:
        """A scalar, float32, differentiable in the student."""


class FittedObjective(Objective, Protocol):
    """A term that starts from data."""

    def fit(self, sample: Iterable[StepContext]) -> None:
        """Learn from the calibration sample, before the first step."""


@dataclass(frozen=True, slots=True)
class Term:
    """A function with what it needs, as an :class:`Objective`."""

    function: Callable[[StepContext], Tensor]
    needs: frozenset[str] = NONE
    _: KW_ONLY
    count: Count | None = None
    compares: bool = True
    """Whether it reads :attr:`StepContext.comparisons`."""
    fades: bool = True
    """Whether ``loss.fade`` moves its weight."""
    alone: bool = False
    """Whether it asks no teacher."""
    short: str = ""
    """The setting that is short for its weight, such as ``loss.lambda_k``."""
    options: type | None = None
    """A dataclass of what a config may tell it, see :mod:`student.terms.options`."""

    def __call__(self, ctx: StepContext) -> Tensor:
        """Apply the function."""
        return self.function(ctx)


def needs_of(objectives: Mapping[str, Objective]) -> frozenset[str]:
    """What some terms need together, for whoever captures it.

    Whoever reads comparisons, or relations, needs keys and values beside what it says.

    Args:
        objectives: by name.

    Raises:
        InputError: one needs what nobody can give it.
    """
    needs = NONE
    for name, objective in objectives.items():
        asked = getattr(objective, "needs", None)
        if not isinstance(asked, Set) or not asked <= NEEDS:
            raise InputError(
                f"objective {name!r} needs {asked!r}; give a frozenset of any of "
                f"{', '.join(sorted(NEEDS))}"
            )
        if alone(objective) and not asked <= STATES:
            raise InputError(
                f"objective {name!r} is alone, without teachers, and needs "
                f"{', '.join(sorted(asked - STATES))}; there it may need "
                f"{', '.join(sorted(STATES))}"
            )
        needs |= asked
        if compares(objective) or RELATIONS in asked:
            needs |= {KEYS_VALUES}
    return needs


def compares(objective: Objective) -> bool:
    """Whether a term reads :attr:`StepContext.comparisons`; a stranger's may."""
    return bool(getattr(objective, "compares", True)) and not alone(objective)


def alone(objective: Objective) -> bool:
    """Whether a term asks no teacher, see :class:`Objective`."""
    return bool(getattr(objective, "alone", False))


def fades(objective: Objective) -> bool:
    """Whether ``loss.fade`` moves a term's weight; all but the next token's."""
    return bool(getattr(objective, "fades", True))


def same_vocabulary(objective: Objective) -> bool:
    """Whether a term on outputs compares token by token in one vocabulary."""
    return bool(getattr(objective, "same_vocabulary", False))


def wants_sample(objective: Objective) -> TypeGuard[FittedObjective]:
    """Whether a term is to be fitted on the calibration sample."""
    return callable(getattr(objective, "fit", None))


def count_of(objective: Objective) -> Count | None:
    """How a term counts its places; None where it gives a mean over a pass."""
    count: Count | None = getattr(objective, "count", None)
    return count


def at_rows(weight: Tensor, rows: Tensor) -> Tensor:
    """Pick token weights (..., B, T) at rows (B, R): (..., B, R)."""
    return weight.gather(-1, rows.expand(*weight.shape[:-1], -1))
