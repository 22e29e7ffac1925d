"""What a term of the loss is, and all that it reads; each is a plugin of one kind.

A term reads one :class:`StepContext` and returns a scalar. Everything it compares
with is detached before it arrives: no term can move a target, so no term can win
by shrinking both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Literal, Protocol, TypeGuard

import torch
from torch import Tensor
from torch.nn import functional as F

from align.errors import InputError
from align.schedules import Timetable
from align.tokens.batch import TokenBatch
from align.views import ATTENTION as ATTENTION
from align.views import EMBEDDINGS as EMBEDDINGS
from align.views import HEADS as HEADS
from align.views import HIDDEN as HIDDEN
from align.views import KEYS_VALUES as KEYS_VALUES
from align.views import NORMED as NORMED
from align.views import OUTPUTS as OUTPUTS
from align.views import RESIDUAL as RESIDUAL
from align.views import STATES as STATES
from align.views import LinearHead
from student.places import Places
from student.step_outputs import Outputs

NONE: frozenset[str] = frozenset()
RELATIONS = "relations"
NEEDS = STATES | {ATTENTION, HEADS, RELATIONS, OUTPUTS}
"""All that an objective may say it needs."""

Side = Literal["k", "v"]
"""Keys or values."""
EPS = 1e-6
"""The least length by which a cosine divides."""
LEAST = 1e-9
"""Keeps a quotient of weights finite where there are none."""


class Compared(Protocol):
    """One student-side prediction beside its fixed target, however it is held.

    A term reads the two measures, or the tensors; :func:`dataclasses.replace` gives it
    another weight, and who wants other tensors makes a :class:`Comparison`.
    """

    @property
    def name(self) -> str:
        """See :attr:`Comparison.name`."""

    @property
    def pred_k(self) -> Tensor:
        """See :attr:`Comparison.pred_k`."""

    @property
    def pred_v(self) -> Tensor:
        """See :attr:`Comparison.pred_v`."""

    @property
    def target_k(self) -> Tensor:
        """See :attr:`Comparison.target_k`."""

    @property
    def target_v(self) -> Tensor:
        """See :attr:`Comparison.target_v`."""

    @property
    def weight(self) -> Tensor:
        """See :attr:`Comparison.weight`."""

    def distance(self, side: Side) -> Tensor:
        """See :meth:`Comparison.distance`."""

    def cosine(self, side: Side) -> Tensor:
        """See :meth:`Comparison.cosine`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """One student-side prediction and the fixed target it is pulled towards."""

    name: str
    """The teacher's name, or ``fused``."""
    pred_k: Tensor
    """(L, B, T, C) float, carries the student's gradient."""
    pred_v: Tensor
    """(L, B, T, C') float."""
    target_k: Tensor
    """(L, B, T, C) float, detached."""
    target_v: Tensor
    """(L, B, T, C') float, detached."""
    weight: Tensor
    """(B, T) or (L, B, T) float32 >= 0, detached: routing weight, 0 where nothing was
    aligned, on padding and on attention sinks."""

    def distance(self, side: Side) -> Tensor:
        """(L, B, T) float32: mean over channels of (prediction - target)²."""
        pred, target = self._pair(side)
        return (pred.float() - target.float()).square().mean(3)

    def cosine(self, side: Side) -> Tensor:
        """(L, B, T) float32, between prediction and target."""
        pred, target = self._pair(side)
        return F.cosine_similarity(pred.float(), target.float(), dim=-1, eps=EPS)

    def _pair(self, side: Side) -> tuple[Tensor, Tensor]:
        if side == "k":
            return self.pred_k, self.target_k
        return self.pred_v, self.target_v


@dataclass(frozen=True, slots=True, eq=False)
class AttentionPair:
    """Attention of the student and of one teacher at the same query positions."""

    name: str
    student: Tensor
    """(L, B, R, T) float32 probabilities, averaged over heads."""
    teacher: Tensor
    """(L, B, R, T) float32 probabilities over the student's tokens, detached."""
    weight: Tensor
    """(B, R) or (L, B, R) float32 >= 0, detached."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadAttention:
    """Attention of the student's heads and of one teacher's at the same positions."""

    name: str
    """The teacher's."""
    student: Tensor
    """(L, H_s, B, R, T) float32 probabilities, with gradient."""
    teacher: Tensor
    """(L, H_t, B, R, T) float32 probabilities over the student's tokens, detached; of
    a layer map that mixes layers those of the heaviest, since heads of two layers have
    nothing to do with each other. A row is 0 where nothing of it is known."""
    weight: Tensor
    """(B, R) or (L, B, R) float32 >= 0, detached."""
    rows: Tensor
    """(B, R) int64, the query positions."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Relation:
    """Standardised features of the student and of one teacher, never projected."""

    name: str
    student_k: Tensor
    """(L, B, T, C_s) float."""
    student_v: Tensor
    """(L, B, T, C_s') float."""
    teacher_k: Tensor
    """(L, B, T, C_t) float, detached."""
    teacher_v: Tensor
    """(L, B, T, C_t') float, detached."""
    weight: Tensor
    """(B, T) or (L, B, T) float32 >= 0, detached."""
    rows: Tensor
    """(B, R) int64, the tokens whose relations to all others are compared."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sides:
    """One place in the student beside one teacher's, never projected."""

    name: str
    """The teacher's."""
    student: Tensor
    """(L, B, T, C_s) float, with gradient."""
    teacher: Tensor
    """(L, B, T, C_t) float on the student's layers and tokens, detached; 0 where
    nothing is aligned."""
    weight: Tensor
    """(B, T) or (L, B, T) float32 >= 0, detached."""


@dataclass(frozen=True, eq=False)  # without slots: logits may come when asked for
class HiddenOutput:
    """The student's next-token output before its head."""

    hidden: Tensor
    """(B, T, C) float."""
    head: LinearHead
    """The student's own parameters."""

    @cached_property
    def logits(self) -> Tensor:
        """(B, T, V) float."""
        return F.linear(self.hidden, self.head.weight, self.head.bias)


@dataclass(frozen=True, slots=True, eq=False)
class LastStates:
    """What the student's last layer makes of a text."""

    hidden: Tensor
    """(B, T, C) float."""
    output: Tensor | HiddenOutput
    """As :attr:`StepContext.output`."""


@dataclass(frozen=True, slots=True, eq=False)
class Reread:
    """How a term has the student read the texts of a pass once more."""

    hidden: Tensor
    """(B, T, C) float, the last hidden states of the pass itself."""
    read: Callable[[Callable[[Tensor], Tensor], Tensor], LastStates]

    def __call__(self, change: Callable[[Tensor], Tensor], mask: Tensor) -> LastStates:
        """One more forward, with its gradient.

        Args:
            change: what becomes of the input embeddings, (B, T, C) float.
            mask: (B, T) bool, the tokens that are read.
        """
        return self.read(change, mask)


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
    smoothing: float = 0.0
    """Probability that the next-token loss spreads evenly over the vocabulary."""
    totals: tuple[float, ...] | None = None
    """What the term's own :attr:`Objective.count` comes to over all passes and
    processes of the optimiser step; None: this pass is all there is, or the term does
    not count."""

    @property
    def states(self) -> Sequence[Sides]:
        """Hidden states, where a term needs ``hidden``."""
        return self.inside.get(HIDDEN, ())

    @property
    def logits(self) -> Tensor:
        """(B, T, V) float, the student's next-token logits; at a large vocabulary the
        largest tensor of a step, made only where a term asks for it."""
        return self.output if isinstance(self.output, Tensor) else self.output.logits

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


Count = Callable[[Places], Sequence[float]]
"""What the places of one forward pass weigh, by tokens and alignments alone."""


class Objective(Protocol):
    """One term of the loss; a module where it learns something itself.

    An optimiser step is one mean over all that its forward passes, on all processes,
    compare. A term may have a method ``count`` that maps :class:`Places` to numbers
    K >= 1: what the places of one pass weigh, known before the student has read. Then
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
