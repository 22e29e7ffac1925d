"""One training step: the student, its teachers' views, and every loss.

Who learns from what is decided here and nowhere else:

- the student: CE, K and V losses to detached targets, attention and relation KL;
- projectors: K and V losses to fixed teacher values;
- adapters, gates, Z modules: the outcome (and Z's own auxiliary losses);
- routers: the outcome, the teachers' own losses, the entropy term;
- a term that is a module: whatever its own value reaches.

What each of them is made of lies in ``student/step``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from align.reading import Reading
from align.schedules import LossRecord, SeenRecord, Timetable, is_on
from align.support.matrices import Layout, layouts
from align.support.stopwatch import part
from align.tokens.batch import TokenBatch
from align.views import Capture, Captured, LinearHead, TeacherView
from fuse.signals import KV_FIT, signals_needed
from student.balance import Balance, DomainBalance, DomainVectors
from student.config import LossConfig
from student.evaluate import kv_health
from student.layers import layers_read
from student.objective import (
    ATTENTION,
    EMBEDDINGS,
    HEADS,
    KEYS_VALUES,
    RELATIONS,
    STATES,
    FittedObjective,
    StepContext,
    compares,
    needs_of,
    wants_sample,
)
from student.output.temperature import TEMPERATURES
from student.places import Counts, Places, Selected, Share, coverage_of
from student.select.candidates import Sum
from student.select.selection import Selection
from student.step.bridge_losses import bridge_losses
from student.step.context import ContextMaker, introduce, sizes_of
from student.step.domains import DomainWeights, domain_balance
from student.step.modules import modules_of
from student.step.outcome import Outcome
from student.step.records import PassInputs
from student.step.records import StepResult as StepResult
from student.step.records import Teaching as Teaching
from student.step.records import WeightedObjective as WeightedObjective
from student.step.records import layers_of as layers_of
from student.step.records import sums_of as sums_of
from student.step.routing import Routing, WeighedTeachers
from student.step.routing_losses import routing_losses
from student.step.selection import StepSelection
from student.step.signals import PassSignals
from student.step.student_pass import StudentPass
from student.step.survey import Surveyor
from student.step.term_sum import TermSum
from student.step_outputs import OutputPlan

HEALTH_TOKENS = 512
"""Tokens of a batch whose spread is measured."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Read:
    """One pass of the student beside its teachers."""

    captured: Captured
    teachers: WeighedTeachers
    """As they count by now."""
    context: StepContext
    selected: Selected | None
    """By what selectors multiply its places; None where there is none."""
    share: Share | None
    """What is left of the pass, and of its step, for the terms."""


class Distiller(nn.Module):
    """The student with all that is trained beside it."""

    def __init__(
        self,
        student: nn.Module,
        capture: Capture,
        objectives: Mapping[str, WeightedObjective],
        config: LossConfig,
        teaching: Teaching | None = None,
        *,
        autocast: torch.dtype | None = None,
        health_every: int = 0,
        output: OutputPlan | None = None,
        head: LinearHead | None = None,
        balance: Balance | None = None,
        timetable: Timetable | None = None,
        domains: Sequence[str] = (),
        selection: Selection | None = None,
    ) -> None:
        """Join the parts.

        Args:
            student: the model that ``capture`` runs.
            capture: see :class:`align.views.Capture`.
            objectives: terms by name; ``ce`` alone needs no teaching.
            config: for the outcome, sinks and sampled rows.
            teaching: None trains without teachers.
            autocast: bfloat16 or float16 for matrix products; None for neither.
            health_every: steps between two measurements of the student's KV under
                teaching; 0 for none.
            output: the student's side of terms that need ``outputs``; None where none
                does.
            head: the student's, where its logits are ``hidden @ weight.T + bias``: then
                none are made but those that a term asks for.
            balance: of these objectives; None weighs them as they say.
            timetable: of the phase, which knows its length and strangers' schedules;
                None: every schedule says its steps and is built in.
            domains: of all texts that are learned from, alike on all processes.
            selection: of the places that are learned from; None: all are.

        Raises:
            InputError: a term needs what nobody can give it, or hides parameters.
        """
        super().__init__()
        self.student = student
        self.bridge = teaching.bridge if teaching else None
        self.weigher = teaching.weigher if teaching else None
        self._regularizer = teaching.regularizer if teaching else None
        self._routing_temperature = teaching.temperature if teaching else None
        self.timetable = timetable or Timetable(rules=TEMPERATURES)
        """What settings are at a step."""
        self._capture, self._objectives = capture, dict(objectives)
        self._config, self._autocast = config, autocast
        self._health_every = health_every
        terms = {name: o.objective for name, o in self._objectives.items()}
        introduce(terms, sizes_of(capture), teaching.all_sizes if teaching else {})
        self.terms = modules_of(terms)
        """Terms that are modules: what they learn is trained, moved and saved."""
        self.losses = LossRecord(list(terms)) if self.timetable.reads_losses else None
        """What schedules know of the losses so far; None where none goes by them."""
        self.seen = SeenRecord() if self.timetable.signals else None
        """What they know of outputs, likewise."""
        self.timetable.seen = self.seen
        self.timetable.kept = None if self.losses is None else self.losses.kept
        self.balance = balance
        """What weighs the terms; None where the config does alone."""
        self.domains: DomainBalance | DomainVectors | None = None
        """How hard domains are; None where nothing goes by that."""
        if is_on(config.domain_balance) or self.timetable.reads_domains:
            width = sizes_of(capture).hidden_size
            self.domains = domain_balance(config.domain_signal, domains, width)
        if self.timetable.reads_domains:
            self.timetable.domains = self._domain_weights.difficulty
        self.selection = selection if teaching else None
        """What selects places; None where all are learned from."""
        self._contexts = ContextMaker(
            needs=needs_of(terms),
            compares=any(compares(term) for term in terms.values()),
            bridge=self.bridge,
            maps=teaching.layer_maps if teaching else {},
            layers=capture.num_layers,
            temperatures=config.temperatures,
            temperature_rise=config.temperature_rise,
            timetable=self.timetable,
            output=output,
            head=head,
            look=self._look_again,
            smoothing=config.smoothing,
            every_domain=domains,
        )
        self._outcome_layers = layers_read(config.outcome_layers, capture.num_layers)
        selecting = self.selection.needs if self.selection else frozenset()
        self.signals = signals_needed(self.weigher) | selecting
        """What anybody asks to be told in every pass, see :mod:`fuse.signals`."""
        sizes = teaching.all_sizes if teaching else {}
        self._costs = {name: each.parameters for name, each in sizes.items()}

    @property
    def _student_pass(self) -> StudentPass:
        return StudentPass(
            student=self.student,
            capture=self._capture,
            needs=self._contexts.needs,
            logits=self._contexts.head is None,
            balance=self.balance,
        )

    @property
    def _surveyor(self) -> Surveyor:
        return Surveyor(
            objectives=self._objectives,
            weigher=self.weigher,
            bridge=self.bridge,
            learns_routing=self.learns_routing,
            skip_sinks=self._config.skip_sinks,
            plan=self._contexts.output,
        )

    @property
    def _routing(self) -> Routing:
        assert self.weigher is not None
        signals = PassSignals(
            needs=self.signals,
            plan=self._contexts.output,
            bridge=self.bridge,
            parameters=self._costs,
        )
        return Routing(
            weigher=self.weigher,
            signals=signals,
            skip_sinks=self._config.skip_sinks,
            temperature=self._routing_temperature,
            timetable=self.timetable,
        )

    @property
    def _selecting(self) -> StepSelection:
        assert self.selection is not None
        return StepSelection(
            selection=self.selection,
            surveyor=self._surveyor,
            timetable=self.timetable,
        )

    @property
    def _domain_weights(self) -> DomainWeights:
        return DomainWeights(
            balance=self.domains,
            setting=self._config.domain_balance,
            timetable=self.timetable,
        )

    @property
    def _outcome(self) -> Outcome:
        assert self.bridge is not None
        return Outcome(
            bridge=self.bridge,
            student=self._student_pass,
            contexts=self._contexts,
            config=self._config,
            layers=self._outcome_layers,
            timetable=self.timetable,
        )

    @property
    def _sum(self) -> TermSum:
        return TermSum(
            objectives=self._objectives,
            config=self._config,
            timetable=self.timetable,
            losses=self.losses,
            seen=self.seen,
            balance=self.balance,
        )

    @property
    def learns_routing(self) -> bool:
        """Whether the weigher has parameters."""
        return self.weigher is not None and any(
            p.requires_grad for p in self.weigher.parameters()
        )

    def matrix_layouts(self) -> dict[int, Layout]:
        """How the student's trainable matrices lie, by ``id``."""
        return layouts(self.student, self._capture.joined_maps())

    def wants_outcome(self, step: int) -> bool:
        """Whether this optimiser step runs the second, injected pass."""
        every = self._config.outcome_every
        on = is_on(self._config.eta_outcome) and every > 0
        return self.bridge is not None and on and step % every == 0

    def wants_health(self, step: int) -> bool:
        """Whether this optimiser step measures the student's keys and values."""
        every = self._health_every
        return self.weigher is not None and every > 0 and step % every == 0

    @property
    def compared_rows(self) -> int:
        """Query positions per sample at which terms compare attention or relations."""
        compares = self._contexts.needs & {ATTENTION, HEADS, RELATIONS}
        return self._config.attention_rows if compares else 0

    @property
    def fitted(self) -> dict[str, FittedObjective]:
        """Terms that are fitted on a sample before the first step, by name."""
        terms = {name: o.objective for name, o in self._objectives.items()}
        return {name: term for name, term in terms.items() if wants_sample(term)}

    @property
    def exits(self) -> dict[int, Tensor]:
        """Maps to the student's head from lower layers, where a term trains such."""
        every = (
            getattr(weighed.objective, "exits", {})
            for weighed in self._objectives.values()
        )
        return {layer: made for maps in every for layer, made in maps.items()}

    @torch.no_grad()
    def context(
        self,
        batch: TokenBatch,
        views: Sequence[TeacherView],
        rows: Tensor | None = None,
    ) -> StepContext:
        """What the terms read of one batch, without gradients; see :meth:`forward`."""
        with self._narrow(batch):
            return self._read(PassInputs(batch=batch, views=views, rows=rows)).context

    def survey(
        self, batch: TokenBatch, readings: Sequence[Reading], rows: Tensor | None
    ) -> tuple[Places, Counts]:
        """Where a pass compares anything and what that weighs; no model runs.

        Args:
            batch: the student's tokens, (B, T).
            readings: one per teacher, in the bridge's order.
            rows: (B, R) int64 query positions.
        """
        return self._surveyor.survey(batch, readings, rows)

    @torch.no_grad()
    def choose(
        self,
        batch: TokenBatch,
        views: Sequence[TeacherView],
        *,
        step: int,
        share: Share,
        domains: Sequence[str] | None,
        numbers: Sequence[int] | None = None,
    ) -> Places:
        """Have the selectors look at a pass before any of its step is learned from.

        The student reads once more for it, without gradients and without dropout.

        Args:
            batch: the student's tokens, (B, T).
            views: one per teacher.
            step: optimiser steps taken in this phase.
            share: what the batch is of its optimiser step.
            domains: of the texts.
            numbers: of the texts in the run, as in :meth:`forward`.

        Returns:
            The pass's places with what of them is selected, to be settled with those of
            the other passes, see :func:`student.places.settled`.
        """
        inputs = PassInputs(
            batch=batch,
            views=views,
            step=step,
            share=share,
            domains=domains,
            numbers=numbers,
        )
        training = self.training
        self.eval()
        with self._narrow(batch):
            captured = self._student_pass.look(batch, all_layers=self._reads_kv(step))
            teachers = self._routing.weigh(captured, inputs)
            selected = self._selecting.select(teachers, step, share)
        self.train(training)
        return share.places.learned(selected, teachers.routing)

    def left(self, passes: Sequence[Places], total: Sum) -> Counts:
        """What a selection leaves of a step.

        Args:
            passes: of the step, on this process.
            total: over processes, which must all ask.

        Raises:
            InputError: it has left nothing for many steps.
        """
        return self._selecting.left(passes, total)

    def forward(
        self,
        batch: TokenBatch,
        views: Sequence[TeacherView] = (),
        rows: Tensor | None = None,
        step: int = 0,
        poisoned: bool = False,
        share: Share | None = None,
        domains: Sequence[str] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> StepResult:
        """Compute the loss of one batch.

        Args:
            batch: the student's tokens, (B, T).
            views: one per teacher, in the bridge's order; empty without teaching.
            rows: (B, R) int64 query positions; needed where ``compared_rows``.
            step: optimiser steps taken in this phase.
            poisoned: something of this batch cannot be used: a loss whose gradients
                are NaN, so that all processes leave out the step it belongs to.
            share: what the batch is of its optimiser step, from :meth:`survey` of all
                its passes; None: the batch is all there is.
            domains: of the texts, for a router that is told; None: nobody knows.
            numbers: of the texts in the run, by which teachers are drawn; None: from 0.
        """
        inputs = PassInputs(
            batch=batch,
            views=views,
            rows=rows,
            step=step,
            share=share,
            domains=domains,
            numbers=numbers,
        )
        with self._narrow(batch):
            if poisoned:
                captured = self._capture(
                    batch.ids, batch.mask, layers=(0,), logits=True
                )
                assert captured.logits is not None
                return StepResult(loss=captured.logits.float().mean() * torch.nan)
            return self._alone(inputs) if self.weigher is None else self._taught(inputs)

    def _narrow(self, batch: TokenBatch) -> torch.autocast:
        """Matrix products in ``autocast``.

        Without its cache of narrowed weights: all threads share it, and the one that
        reads the next batch empties it as its own pass ends. A weight that is used
        twice would then be narrowed again, or not, and its gradient end otherwise in
        the last bit, from run to run.
        """
        return torch.autocast(
            batch.ids.device.type,
            dtype=self._autocast,
            enabled=self._autocast is not None,
            cache_enabled=False,
        )

    def _alone(self, inputs: PassInputs) -> StepResult:
        batch, step = inputs.batch, inputs.step
        captured = self._student_pass.look(batch, all_layers=self._reads_kv(step))
        by_text = self._domain_weights.of_texts(inputs)
        context = self._contexts.alone(captured, batch, step, by_text)
        self._domain_weights.note(context, inputs)
        return self._sum.total(context, {}, inputs.share, captured)

    def _taught(self, inputs: PassInputs) -> StepResult:
        batch, views, share = inputs.batch, inputs.views, inputs.share
        extra: dict[str, Tensor] = {}
        read = self._read(inputs)
        available, (soft, routing) = read.teachers.available, read.teachers.weighed
        with part("fuse"):
            if self.bridge is not None:
                extra |= bridge_losses(
                    self.bridge, read.captured, inputs, self.timetable
                )
            if self.learns_routing:
                extra |= routing_losses(
                    soft,
                    available,
                    views,
                    signal=self._config.router_signal,
                    regularizer=self._regularizer,
                    step=inputs.step,
                    share=share,
                )
        self._domain_weights.note(read.context, inputs)
        self._sum.note_outputs(read.context, share)
        if self.wants_outcome(inputs.step):
            extra |= self._outcome.losses(inputs, routing)
        with part("fuse"):
            result = self._sum.total(read.context, extra, read.share, read.captured)
        readings = [] if share is None else share.places.readings
        return replace(
            result,
            selected=read.selected,
            routing=routing.detach(),
            soft=soft.detach(),
            teachers=tuple(view.name for view in views),
            coverage=coverage_of(batch, available, readings),
            health=kv_health(read.captured.kv, HEALTH_TOKENS)
            if self.wants_health(inputs.step)
            else None,
        )

    def _read(self, inputs: PassInputs) -> _Read:
        """Run the student and weigh the teachers."""
        batch, rows, step = inputs.batch, inputs.rows, inputs.step
        asked = rows if self._contexts.needs & {ATTENTION, HEADS} else None
        captured = self._student_pass.look(
            batch, asked, all_layers=self._reads_kv(step)
        )
        with part("fuse"):
            teachers = self._routing.weigh(captured, inputs)
            share, selected = inputs.share, None
            if self.selection is not None:
                share, selected = self._selecting.of_pass(teachers, step, share)
            context = self._contexts.taught(
                captured,
                batch,
                inputs.views,
                routing=teachers.routing,
                clear=teachers.clear,
                rows=rows,
                step=step,
                share=share,
                domains=inputs.domains,
                by_text=self._domain_weights.of_texts(inputs),
                selected=selected,
            )
        return _Read(
            captured=captured,
            teachers=teachers,
            context=context,
            selected=selected,
            share=share,
        )

    def _reads_kv(self, step: int) -> bool:
        """Whether anything of a step looks at the student's keys and values."""
        bridge = self.bridge
        if bridge is not None and (
            KEYS_VALUES in self._contexts.needs or bridge.learns_from_student
        ):
            return True
        stated = self._contexts.needs & STATES - {EMBEDDINGS}
        read = KV_FIT in self.signals or self.compared_rows > 0 or bool(stated)
        return read or self.wants_health(step)

    def _look_again(
        self, ids: Tensor, mask: Tensor, change: Callable[[Tensor], Tensor]
    ) -> Captured:
        return self._student_pass.look_again(ids, mask, change)
