"""Where one forward pass compares anything, known before the student has read.

One optimiser step is one mean: what a term sums up over a pass is divided by what its
places weigh over all passes and processes of the step. Gradients of all terms gather in
one place, so that number has to be there before the first of them. It follows from
tokens, alignments, sinks and sampled rows, and never from what a model says; but where
selectors weigh places by that, all passes of a step are looked at without gradients
before the first is learned from, see :class:`Chosen`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

import torch
from torch import Tensor

from align.reading import Reading
from align.tokens.batch import TokenBatch
from align.tokens.weights import label_weight, text_weight
from align.views import TeacherView
from student.attention_sinks import without_sinks
from student.output.across.pairing import Pairing
from student.step_outputs import OutputPlan


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """One teacher whose next-token output is compared."""

    name: str
    pairing: Pairing
    weight: Tensor
    """(B, T_s) float32."""
    alike: bool
    """Whether it has the student's vocabulary."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Selected:
    """By what selectors multiply the places of one pass; each None for 1 everywhere."""

    kv: Tensor | None = None
    """(B, T, M) float32 >= 0, where the student's keys, values, states and attention
    are compared."""
    outputs: Tensor | None = None
    """(B, T, M) float32 >= 0, of tokens that are predicted, as teachers' weights."""
    next_token: Tensor | None = None
    """(B, T) float32 >= 0, likewise, of the next-token loss."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """(B, T) float32 >= 0 of each selector at each place, over teachers by their
    weights."""
    counted: Tensor | None = None
    """(B, T) bool, the places among which they choose."""

    @property
    def apart(self) -> bool:
        """Whether places count otherwise from teacher to teacher."""
        parts = [part for part in (self.kv, self.outputs) if part is not None]
        return not all(bool((part == part[..., :1]).all()) for part in parts)

    @property
    def kept(self) -> dict[str, tuple[float, float]]:
        """How many places each selector leaves anything of, and of how many; the same
        of all selectors together where there are several."""
        if self.counted is None:
            return {}
        counted, every = self.counted, torch.ones_like(self.counted)
        kept = {}
        for name, weight in self.weights.items():
            every = every & (weight > 0)
            kept[name] = float((counted & (weight > 0)).sum()), float(counted.sum())
        if len(kept) > 1:
            kept["all"] = float((counted & every).sum()), float(counted.sum())
        return kept


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Places:
    """One forward pass's places, with what each of them is worth beforehand."""

    batch: TokenBatch
    """The student's tokens, (B, T)."""
    readings: Sequence[Reading]
    """One per teacher; empty without teachers."""
    rows: Tensor | None
    """(B, R) int64 query positions, where a term compares some."""
    available: Tensor
    """(B, T, M) bool, True where teacher m covers the token's text."""
    clear: Tensor
    """(B, T, M) bool, False on padding and on attention sinks."""
    weight: Tensor
    """(B, T, M) float32: the teachers' shares before the student has read, of fixed
    fusion those that it has, of any other equal ones; they sum over the available
    teachers to the text's weight, most often 1, or to 0 where there is none."""
    pairings: Sequence[Pairing | None]
    """One per teacher; None where its next-token output is not compared."""
    plan: OutputPlan | None = None
    """Of the terms on outputs."""
    selected: Selected = field(default_factory=Selected)
    """What of it is learned; before the student has read, all."""
    routed: Tensor | None = None
    """(B, T, M) float32, after a selection: ``weight`` by the teachers' weights of this
    very pass, see :func:`settled`."""

    @property
    def predicted(self) -> float:
        """What the tokens weigh that the student predicts, 1 each or as their text."""
        return float(
            text_weight(self.batch, self.batch.predicted[:, 1:]).double().sum()
        )

    @property
    def labelled(self) -> float:
        """What the tokens weigh whose prediction a next-token loss is of."""
        weight, chosen = label_weight(self.batch), self.selected.next_token
        weight = weight if chosen is None else weight * chosen
        return float(weight[:, 1:].double().sum())

    @property
    def counted(self) -> Tensor:
        """(B, T, M) float32: ``weight`` off padding and attention sinks, where keys and
        values are learned."""
        chosen, weight = self.selected.kv, self.weight * self.clear
        return weight if chosen is None else weight * chosen

    @property
    def compared(self) -> Tensor:
        """(B, T, M) float32: ``weight`` where keys and values are compared; 0 of a
        teacher that brings none."""
        met = torch.tensor([r.kv for r in self.readings], device=self.weight.device)
        return self.counted * met

    def stated(self, states: Collection[str]) -> Tensor:
        """(B, T, M) float32: ``weight`` where these of ``STATES`` are compared; 0 of a
        teacher that does not bring them all."""
        stated = [reading.states.issuperset(states) for reading in self.readings]
        return self.counted * torch.tensor(stated, device=self.weight.device)

    @property
    def met(self) -> Places:
        """Of the teachers that bring keys and values, as a bridge knows them."""
        kept = [m for m, reading in enumerate(self.readings) if reading.kv]
        if len(kept) == len(self.readings):
            return self
        return replace(
            self,
            readings=[self.readings[m] for m in kept],
            available=self.available[..., kept],
            clear=self.clear[..., kept],
            weight=self.weight[..., kept],
            pairings=[self.pairings[m] for m in kept],
            selected=Selected(),
        )

    def heard(self, objective: str) -> Iterator[Heard]:
        """The teachers whose outputs an objective compares."""
        if self.plan is None:
            return
        named = self.plan.config.teachers.get(objective)
        for m, (reading, pairing) in enumerate(
            zip(self.readings, self.pairings, strict=True)
        ):
            if pairing is not None and (named is None or reading.name in named):
                alike = reading.vocabulary == self.plan.vocabulary
                chosen, weight = self.selected.outputs, self.weight[..., m]
                if chosen is not None:
                    weight = weight * chosen[..., m]
                yield Heard(reading.name, pairing, weight, alike)

    def learned(self, selected: Selected, routing: Tensor) -> Places:
        """What is left of them after a selection.

        Args:
            selected: by what places are multiplied.
            routing: (B, T, M) or (L, B, T, M) float32, the weights that the teachers
                have by now.
        """
        shares = routing.mean(0) if routing.dim() == 4 else routing
        routed = text_weight(self.batch, shares)
        return replace(self, selected=selected, routed=routed)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the places of one pass, or of several, weigh together."""

    predicted: float
    """Tokens that the student predicts, see :attr:`Places.predicted`."""
    terms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of every term that counts."""

    @property
    def empty(self) -> list[str]:
        """Terms that have nothing to compare here, by what they count first."""
        return [n for n, numbers in self.terms.items() if numbers and not numbers[0]]

    def flat(self) -> list[float]:
        """All numbers in a row."""
        return [
            self.predicted,
            *(x for numbers in self.terms.values() for x in numbers),
        ]

    def refilled(self, flat: Sequence[float]) -> Counts:
        """The same terms with other numbers."""
        rest = iter(flat[1:])
        terms = {
            name: tuple(next(rest) for _ in numbers)
            for name, numbers in self.terms.items()
        }
        return Counts(flat[0], terms)

    def __add__(self, other: Counts) -> Counts:
        """Of both."""
        both = zip(self.flat(), other.flat(), strict=True)
        return self.refilled([left + right for left, right in both])


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """What selectors leave of one pass, and of its optimiser step."""

    places: Places
    """Of the pass."""
    step: Counts
    """Of all passes on all processes."""

    @property
    def selected(self) -> Selected:
        """By what the places of the pass are multiplied."""
        return self.places.selected


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What one forward pass is of its optimiser step."""

    places: Places
    own: Counts
    """Of the pass."""
    step: Counts
    """Of all passes on all processes."""
    over_processes: Callable[[Sequence[float]], list[float]] = list
    """Adds up numbers of this pass over all processes, which must all ask."""
    _: KW_ONLY
    chosen: Chosen | None = None
    """What selectors leave of it, where they have looked at all passes of the step
    before the first; None: where the pass is the step, they look in it."""

    @property
    def learned(self) -> Counts:
        """What the step weighs, of its terms what is left of it after a selection."""
        return self.step if self.chosen is None else self.chosen.step

    @property
    def part(self) -> float:
        """The pass's share of the step's predicted tokens."""
        return self.own.predicted / (self.step.predicted or 1.0)


def settled(
    passes: Sequence[Places], total: Callable[[Sequence[float]], list[float]]
) -> list[Places]:
    """The passes of a step after a selection, with what their places weigh.

    Where each teacher selects for itself anywhere in the step, what is left weighs as
    the teachers do by now, in all of its passes; else as it did beforehand.

    Args:
        passes: of the step, on this process.
        total: over processes, which must all ask.
    """
    (apart,) = total([float(any(places.selected.apart for places in passes))])
    return [
        places
        if places.routed is None
        else replace(
            places, weight=places.routed if apart else places.weight, routed=None
        )
        for places in passes
    ]


def availability(
    batch: TokenBatch, teachers: Sequence[Reading | TeacherView]
) -> Tensor:
    """(B, T, M) bool, True where teacher m covers the token's text."""
    text = batch.has_text[..., None]
    if not teachers:
        return text[..., :0]
    return torch.stack([teacher.alignment.covered for teacher in teachers], -1) & text


def coverage_of(
    batch: TokenBatch, available: Tensor, readings: Sequence[Reading]
) -> Tensor:
    """What each teacher covers of the texts that it is asked about.

    Args:
        batch: the student's tokens, (B, T).
        available: (B, T, M) bool, see :func:`availability`.
        readings: one per teacher; empty: all are asked about all.

    Returns:
        (M,) float32, a share of the tokens that hold text; NaN of a teacher that is
        asked about no text.
    """
    tokens = batch.has_text.sum(1)
    covered = available.sum((0, 1)).float()
    asked = tokens.sum().clamp_min(1).repeat(available.shape[-1])
    for m, reading in enumerate(readings):
        if reading.some is not None:
            rows = reading.some.rows
            asked[m] = tokens[rows].sum().clamp_min(1) if len(rows) else 0
    return covered / asked


def find_places(
    batch: TokenBatch,
    readings: Sequence[Reading],
    *,
    rows: Tensor | None,
    weight: Tensor,
    skip_sinks: int,
    plan: OutputPlan | None,
) -> Places:
    """Put together what is known of one pass.

    Args:
        batch: the student's tokens, (B, T).
        readings: one per teacher.
        rows: (B, R) int64, where a term compares some.
        weight: (B, T, M), see :attr:`Places.weight`.
        skip_sinks: leading tokens that are left out.
        plan: of the terms on outputs; None where there is none.
    """
    pairings = [
        Pairing(batch, reading.tokens)
        if plan is not None
        and reading.vocabulary is not None
        and reading.tokens is not None
        else None
        for reading in readings
    ]
    return Places(
        batch=batch,
        readings=readings,
        rows=rows,
        available=availability(batch, readings),
        clear=without_sinks(batch, readings, skip_sinks),
        weight=weight,
        pairings=pairings,
        plan=plan,
    )
