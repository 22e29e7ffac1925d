"""What terms compare, as a pass brings it, and how a text is read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from torch import Tensor
from torch.nn import functional as F

from align.views import LinearHead

Side = Literal["k", "v"]
"""Keys or values."""
EPS = 1e-6
"""The least length by which a cosine divides."""


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
    sizes_k: tuple[Tensor, Tensor] | None = None
    """(L, C_s) and (L, C_t) float > 0: times these, channels of keys keep their sizes
    beside the others of a layer; None where nobody knows, and they stay as they are."""
    sizes_v: tuple[Tensor, Tensor] | None = None
    """Likewise of values."""


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
    sizes: tuple[Tensor, Tensor] | None = None
    """Of features that come standardised channel by channel, see
    :attr:`Relation.sizes_k`."""

    @property
    def known(self) -> Tensor:
        """(B, T) bool, the tokens that are compared on some layer."""
        return (self.weight > 0).expand(len(self.student), -1, -1).any(0)


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
