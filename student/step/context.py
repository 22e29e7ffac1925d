"""Put together what the terms of one forward pass read, each part where a term does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from align.errors import InputError
from align.layer_map import LayerMap, interpolate_teacher_layers
from align.schedules import Setting, Timetable
from align.sizes import Sizes
from align.tokens.batch import TokenBatch
from align.views import (
    Capture,
    Captured,
    LinearHead,
    Output,
    TeacherView,
    with_kv,
)
from student.bridges.base import Bridge
from student.bridges.features import mixed
from student.layers import feature_temperature, moved
from student.objective import (
    ATTENTION,
    EMBEDDINGS,
    HEADS,
    OUTPUTS,
    RELATIONS,
    AttentionPair,
    Compared,
    HeadAttention,
    HiddenOutput,
    LastStates,
    Objective,
    Relation,
    Reread,
    Sides,
    StepContext,
    at_rows,
)
from student.places import Selected, Share
from student.step_outputs import OutputPlan, Outputs, Taught


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ContextMaker:
    """What a phase's terms read, beside what a pass brings."""

    needs: frozenset[str]
    """Of all terms together, see :func:`student.objective.needs_of`."""
    compares: bool
    """Whether a term reads comparisons."""
    bridge: Bridge | None
    """Of the teachers that bring keys and values; None where nobody meets there."""
    maps: Mapping[str, LayerMap]
    """By teacher, of those that bring attention or hidden states."""
    layers: int
    """L of the student."""
    temperatures: Sequence[Setting]
    """Of attention and relations, see ``loss.temperatures``."""
    temperature_rise: Setting
    """See ``loss.temperature_rise``."""
    timetable: Timetable
    """What settings are at a step."""
    output: OutputPlan | None
    """Of terms on outputs."""
    head: LinearHead | None
    """The student's, where its logits are a product with it."""
    look: Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Captured]
    """Runs the student on ids (B, T), under a mask, with its input embeddings changed;
    gives its last hidden states, and logits where there is no ``head``."""
    smoothing: Setting = 0.0
    """Of the next-token loss, see ``loss.smoothing``."""
    every_domain: Sequence[str] = ()
    """Of all texts that are learned from; empty: nobody knows."""

    def alone(
        self,
        captured: Captured,
        batch: TokenBatch,
        step: int,
        by_text: Tensor | None = None,
    ) -> StepContext:
        """Of a pass without teachers; see :meth:`taught`."""
        return StepContext(
            batch=batch,
            output=self.next_token(captured),
            own=captured.states,
            reread=self.rereading(captured, batch),
            by_text=by_text,
            step=step,
            timetable=self.timetable,
            smoothing=self._smoothing(step),
        )

    def _smoothing(self, step: int) -> float:
        return self.timetable.value(self.smoothing, "loss.smoothing", step)

    def taught(
        self,
        captured: Captured,
        batch: TokenBatch,
        views: Sequence[TeacherView],
        *,
        routing: Tensor,
        clear: Tensor,
        rows: Tensor | None,
        step: int = 0,
        share: Share | None = None,
        domains: Sequence[str] | None = None,
        by_text: Tensor | None = None,
        selected: Selected | None = None,
    ) -> StepContext:
        """Of a pass with teachers.

        Args:
            captured: the student, seen from inside.
            batch: its tokens, (B, T).
            views: one per teacher.
            routing: (B, T, M) or (L, B, T, M) float32, detached.
            clear: (B, T, M) bool, False on padding and on attention sinks.
            rows: (B, R) int64 query positions, where a term compares some.
            step: optimiser steps taken in this phase.
            share: what the batch is of its optimiser step.
            domains: of the texts; None: nobody knows.
            by_text: (B,) float32, by what the domain of each multiplies what it costs.
            selected: by what selectors multiply places; None: by nothing.
        """
        selected = selected or Selected()
        shares = routing
        for each in (batch.weight, by_text):
            shares = shares if each is None else shares * each[:, None, None]
        weights = shares * clear
        if selected.kv is not None:
            weights = weights * selected.kv
        if selected.outputs is not None:
            shares = shares * selected.outputs
        numbers = moved(self.temperatures, "loss.temperatures", self.timetable, step)
        rise = self.timetable.value(
            self.temperature_rise, "loss.temperature_rise", step
        )
        temperature = feature_temperature(numbers, self.layers, rise=rise)
        return StepContext(
            batch=batch,
            output=self.next_token(captured),
            comparisons=self._comparisons(captured, views, weights),
            attention=self._attention_pairs(captured, views, weights, rows),
            heads=self._head_attention(captured, views, weights, rows),
            relations=self._relations(captured, views, weights, rows),
            inside=self._inside(captured, views, weights),
            own=captured.states,
            reread=self.rereading(captured, batch),
            routing=routing,
            step=step,
            smoothing=self._smoothing(step),
            outputs=self._outputs(
                captured,
                batch,
                views,
                weights=shares,
                step=step,
                share=share,
                domains=domains,
                by_text=by_text,
                by_token=selected.next_token,
            ),
            by_text=by_text,
            by_token=selected.next_token,
            temperature=None if temperature is None else temperature.to(routing.device),
            timetable=self.timetable,
        )

    def rereading(self, captured: Captured, batch: TokenBatch) -> Reread | None:
        """How a term has the student read the batch once more."""
        if captured.hidden is None:
            return None

        def read(change: Callable[[Tensor], Tensor], mask: Tensor) -> LastStates:
            again = self.look(batch.ids, mask, change)
            assert again.hidden is not None
            return LastStates(again.hidden, self.next_token(again))

        return Reread(captured.hidden, read)

    def next_token(self, captured: Captured) -> Tensor | HiddenOutput:
        """The student's logits, or what they come from."""
        if self.head is None:
            assert captured.logits is not None
            return captured.logits
        assert captured.hidden is not None
        return HiddenOutput(captured.hidden, self.head)

    def _comparisons(
        self, captured: Captured, views: Sequence[TeacherView], weights: Tensor
    ) -> Sequence[Compared]:
        if self.bridge is None or not self.compares:
            return []
        return self.bridge.compare(captured.kv, with_kv(views), of_kv(weights, views))

    def _attention_pairs(
        self,
        captured: Captured,
        views: Sequence[TeacherView],
        weights: Tensor,
        rows: Tensor | None,
    ) -> list[AttentionPair]:
        if ATTENTION not in self.needs or rows is None or captured.attention is None:
            return []
        pairs = []
        for m, view in enumerate(views):
            if view.attention is None:
                continue
            teacher = interpolate_teacher_layers(
                [view.attention], [self.maps[view.name]], self.layers, kept=True
            )[0]
            assert isinstance(teacher, Tensor)
            known = teacher.sum(-1).mean(0) > 0.5  # (B, R): rows that kept mass
            weight = at_rows(weights[..., m], rows) * known
            pairs.append(AttentionPair(view.name, captured.attention, teacher, weight))
        return pairs

    def _head_attention(
        self,
        captured: Captured,
        views: Sequence[TeacherView],
        weights: Tensor,
        rows: Tensor | None,
    ) -> list[HeadAttention]:
        if HEADS not in self.needs or rows is None or captured.attention_heads is None:
            return []
        pairs = []
        for m, view in enumerate(views):
            if view.attention_heads is None:
                continue
            heaviest = self.maps[view.name].remap().heaviest
            teacher = view.attention_heads[list(heaviest)]
            known = teacher.sum(-1).mean((0, 1)) > 0.5  # (B, R): rows that kept mass
            pairs.append(
                HeadAttention(
                    name=view.name,
                    student=captured.attention_heads,
                    teacher=teacher,
                    weight=at_rows(weights[..., m], rows) * known,
                    rows=rows,
                )
            )
        return pairs

    def _relations(
        self,
        captured: Captured,
        views: Sequence[TeacherView],
        weights: Tensor,
        rows: Tensor | None,
    ) -> Sequence[Relation]:
        if RELATIONS not in self.needs or rows is None or self.bridge is None:
            return []
        return self.bridge.relations(
            captured.kv, with_kv(views), of_kv(weights, views), rows
        )

    def _inside(
        self, captured: Captured, views: Sequence[TeacherView], weights: Tensor
    ) -> dict[str, Sequence[Sides]]:
        def sides(state: str, m: int, view: TeacherView) -> Sides:
            weight, single = weights[..., m], state == EMBEDDINGS
            if single and weight.dim() == 3:  # layers are routed by themselves
                weight = weight.mean(0)
            depth = LayerMap((((0, 1.0),),)) if single else self.maps[view.name]
            return Sides(
                name=view.name,
                student=captured.states[state],
                teacher=mixed(view.states[state], view.alignment, depth).aligned(),
                weight=weight,
            )

        return {
            state: [
                sides(state, m, view)
                for m, view in enumerate(views)
                if state in view.states
            ]
            for state in sorted(self.needs & captured.states.keys())
        }

    def _outputs(
        self,
        captured: Captured,
        batch: TokenBatch,
        views: Sequence[TeacherView],
        *,
        weights: Tensor,
        step: int,
        share: Share | None,
        domains: Sequence[str] | None,
        by_text: Tensor | None,
        by_token: Tensor | None,
    ) -> Outputs | None:
        plan = self.output
        if OUTPUTS not in self.needs or plan is None or captured.hidden is None:
            return None
        student = Output(batch, captured.hidden, plan.head, plan.vocabulary)
        if weights.dim() == 4:  # layers are routed by themselves
            weights = weights.mean(0)
        pairings = [None] * len(views) if share is None else share.places.pairings
        taught = [
            Taught(view.name, view.output, weights[..., m], pairings[m])
            for m, view in enumerate(views)
            if view.output is not None
        ]
        return Outputs(
            student=student,
            teachers=taught,
            config=plan.config,
            step=step,
            lexicons=plan.lexicons,
            timetable=self.timetable,
            parameters=plan.parameters,
            domains=domains,
            every_domain=self.every_domain,
            over_processes=list if share is None else share.over_processes,
            by_text=by_text,
            by_token=by_token,
        )


def sizes_of(capture: Capture) -> Sizes:
    """Those of the model that a capture runs."""
    return Sizes(
        layers=capture.num_layers,
        heads=capture.num_kv_heads,
        k_dim=capture.k_dim,
        v_dim=capture.v_dim,
        hidden_size=capture.hidden_size,
        query_heads=capture.query_heads,
        embedding_size=capture.embedding_size,
    )


def introduce(
    objectives: Mapping[str, Objective], student: Sizes, teachers: Mapping[str, Sizes]
) -> None:
    """Tell the terms that are built for sizes who is compared, before anything else.

    Args:
        objectives: by name; those with a method ``meet``.
        student: the student's sizes.
        teachers: those of the phase's teachers, by name.

    Raises:
        InputError: a term cannot compare these.
    """
    for name, objective in objectives.items():
        meet = getattr(objective, "meet", None)
        if meet is None:
            continue
        try:
            meet(student, teachers)
        except InputError as error:
            raise InputError(f"loss.terms.{name}: {error}") from error


def of_kv(x: Tensor, views: Sequence[TeacherView]) -> Tensor:
    """(..., M) of all teachers -> (..., M') of those that bring keys and values."""
    kept = [m for m, view in enumerate(views) if view.kv is not None]
    return x if len(kept) == len(views) else x[..., kept]
